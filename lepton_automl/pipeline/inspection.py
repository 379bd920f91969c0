"""`lepton inspect`: what the ONNX file of an artifact holds and how it runs here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.artifact import writer
from lepton_automl.artifact.manifest import ARCHS
from lepton_automl.artifact.sealed_model import ShippedModel, locate_model
from lepton_automl.core import files
from lepton_automl.core.machine import Machine, this_machine
from lepton_automl.cost.inspection import Inspection, inspect_file
from lepton_automl.errors import ConfigError
from lepton_automl.models.arch import Arch
from lepton_automl.pipeline.net_chart import draw_net


@dataclass(frozen=True)
class NetReport:
    """An inspected file."""

    path: Path
    sha256: str
    is_sealed: bool
    """Whether the manifest of an artifact confirms the file."""
    inspection: Inspection
    machine: Machine


def inspect(
    artifact: Path, *, svg: Path | None = None, on_note: Callable[[str], None] = lambda _: None
) -> NetReport:
    """Inspect the file that ships, or any ONNX file, in a child process with limits.

    Parameters
    ----------
    artifact : Path
        An artifact folder, the run folder, or an ONNX file, also one made elsewhere.
    svg : Path, optional
        Drawing of the net to be written.
    on_note : callable, optional
        Receives a sentence where the file is not sealed by a manifest.

    Raises
    ------
    ConfigError
        If the drawing exists already.
    DataError
        If there is no such file, or it is not an ONNX file.
    ArtifactError
        If it has changed since the artifact was sealed.
    MachineError
        If the drawing cannot be written.
    """
    if svg is not None and svg.exists():
        raise ConfigError(f"--svg {svg} exists already", fix="give the path of a new file")
    shipped = locate_model(artifact)
    content = shipped.content(on_note)
    found = NetReport(
        path=shipped.path,
        sha256=hashlib.sha256(content).hexdigest(),
        is_sealed=shipped.seal is not None,
        inspection=inspect_file(shipped.path, content, arch=_arch_of(shipped)),
        machine=this_machine(),
    )
    if svg is not None:
        files.make_folder(svg.parent)
        files.write(svg, draw_net(found.inspection, f"{shipped.path}"))
    return found


def _arch_of(shipped: ShippedModel) -> Arch | None:
    """The architecture of a file of ours in a sealed artifact; None of any other file."""
    seal = shipped.seal
    if seal is None or ARCHS.get(seal.name) not in seal.manifest.files:
        return None
    seal.manifest.content(seal.folder, ARCHS[seal.name])  # It must be what was sealed.
    return writer.read_arch(seal.folder, seal.name)
