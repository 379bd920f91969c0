"""The ONNX file that a command is given: of a run, of an artifact, or one by itself.

A file of an artifact is used only if it has the sha256 that the manifest says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.artifact import manifest
from lepton_automl.artifact.manifest import Manifest
from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.errors import ArtifactError, DataError

_FIX = "give an ONNX file that lepton wrote"


@dataclass(frozen=True)
class Seal:
    """The artifact that a model is a file of."""

    folder: Path
    manifest: Manifest
    name: str
    """Path of the model inside the folder."""


@dataclass(frozen=True)
class ShippedModel:
    """An ONNX file, and the artifact that it belongs to."""

    path: Path
    seal: Seal | None
    """None of a file outside of an artifact."""

    def content(self, on_note: Callable[[str], None] = lambda _: None) -> bytes:
        """Content of the file, which has the digest in the manifest if there is one.

        Parameters
        ----------
        on_note : callable, optional
            Receives a sentence where no manifest confirms the file.

        Raises
        ------
        DataError
            If it cannot be read.
        ArtifactError
            If it has changed since the artifact was sealed.
        """
        if self.seal is not None:
            return self.seal.manifest.content(self.seal.folder, self.seal.name)
        on_note(
            f"{self.path} is unsealed: no {manifest.MANIFEST} lists its sha256, so a change would "
            "not be noticed"
        )
        return untrusted_files.read_bytes(self.path, MODEL, fix=_FIX)


def locate_model(artifact: Path) -> ShippedModel:
    """The ONNX file of a run folder or an artifact folder, or the given ONNX file itself.

    Raises
    ------
    DataError
        If there is none.
    ArtifactError
        If the manifest is malformed.
    """
    if artifact.is_file() and artifact.suffix == ".onnx":
        return ShippedModel(artifact, _seal_of(artifact))
    if artifact.is_file() or not artifact.exists():
        raise DataError(
            f"{artifact} {'is not an ONNX file' if artifact.is_file() else 'does not exist'}",
            fix="give a run folder, its artifact/ or an .onnx file",
        )
    nested = artifact / "artifact"
    folder = nested if nested.is_dir() and not (artifact / manifest.MANIFEST).exists() else artifact
    found = manifest.read_manifest(folder)
    return ShippedModel(folder / found.shipped, Seal(folder, found, found.shipped))


def _seal_of(model: Path) -> Seal | None:
    """The artifact in whose folder a model lies under one of the names in an artifact."""
    for folder in (model.absolute().parent, model.absolute().parent.parent):
        name = model.absolute().relative_to(folder).as_posix()
        if name in manifest.MODELS and (folder / manifest.MANIFEST).is_file():
            try:
                return Seal(folder, manifest.read_manifest(folder), name)
            except ArtifactError as error:
                raise ArtifactError(
                    error.what, fix=f"{error.fix}; alone in another folder the file can be used"
                ) from error
            except DataError:
                return None  # Files of an artifact of another format can be used as they are.
    return None
