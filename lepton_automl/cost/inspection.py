"""Inspect an ONNX file in a child process with limits: layers, kernels, times.

For any file, whoever made it. Limits beside those of `models.untrusted.session`: 512 MiB and 24
times the file, 12 s of processor time and 1 s a MB.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.core.field_types import check_types
from lepton_automl.core.limited_process import LimitedProcess, ProcessLimits
from lepton_automl.cost.kernels import Kernel, KernelTable
from lepton_automl.cost.layer_table import LayerRow
from lepton_automl.cost.memory_steps import memory_steps
from lepton_automl.errors import DataError
from lepton_automl.models.arch import Arch
from lepton_automl.models.graph import Add, Conv

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.cost.inspection_server import main; main()"
)
_FIX = "give an ONNX file that runs in ONNX Runtime"
_BASE_BYTES, _BASE_SECONDS = 512 << 20, 12.0
BYTES_PER_BYTE, SECONDS_PER_BYTE = 24, 1e-6
"""Memory and processor time of a byte of a file."""
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Inspection:
    """What an ONNX file holds and how it runs here."""

    file_bytes: int
    inputs: tuple[str, ...]
    """`pixels uint8 (n, 8, 8, 1)`."""
    outputs: tuple[str, ...]
    producer: str
    opset: int
    value_bytes: int
    """Bytes an element of a feature map: 1 in an int8 file, 4 in a float one."""
    layers: tuple[LayerRow, ...]
    kernels: KernelTable | None
    """None where the file cannot be run here."""
    not_run: str
    """Why it cannot; empty if it can."""
    has_arch: bool = False
    """Whether memory is that of the architecture, which writes sums over their inputs."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        """Of all constants."""
        return sum(layer.parameter_bytes for layer in self.layers)

    @property
    def peak(self) -> LayerRow | None:
        """The first of the layers at which most memory is needed; None where there are none."""
        return max(self.layers, key=lambda layer: layer.ram_bytes, default=None)

    def kernels_by_layer(self) -> Mapping[str, Kernel]:
        """Layer -> the kernel that computes it."""
        found = () if self.kernels is None else self.kernels.kernels
        return {layer: kernel for kernel in found for layer in kernel.layers}


def inspect_file(
    source: Path, content: bytes, *, arch: Arch | None = None, seconds: float = 0.3
) -> Inspection:
    """Inspect an ONNX file.

    Parameters
    ----------
    source : Path
        Where it is: in messages, and weights may be in other files of its folder.
    content : bytes
        Of the file.
    arch : Arch, optional
        The architecture that it was written from, if it is a file of ours: feature maps alive are
        then those of `peak_ram_bytes`.
    seconds : float
        Of each of three measurements.

    Raises
    ------
    DataError
        If it is not an ONNX file, exceeds a limit or crashes the process.
    """
    place = os.path.abspath(source.parent)  # noqa: PTH100  Links stay, unlike in Path.resolve.
    fields = {"source": str(source), "folder": place, "seconds": seconds}
    memory = _BASE_BYTES + BYTES_PER_BYTE * len(content)
    cpu = _BASE_SECONDS + SECONDS_PER_BYTE * len(content)
    limits = ProcessLimits(memory, cpu, 60.0 + 10.0 * cpu)
    with LimitedProcess(PROGRAM) as process:
        found = process.call(fields, content, subject=str(source), fix=_FIX, limits=limits).fields
    try:
        inspection = _read(found, len(content))
    except _MALFORMED as error:
        raise DataError(f"{source}: its process gave a malformed answer", fix=_FIX) from error
    return inspection if arch is None else _with_memory_of(inspection, arch)


def _read(body: Mapping[str, Any], size: int) -> Inspection:
    layers = tuple(
        LayerRow(
            **each
            | {"reads": tuple(each["reads"]), "shape": tuple(each["shape"])}
            | {"alive": tuple((name, amount) for name, amount in each["alive"])}
        )
        for each in body["layers"]
    )
    given = body["kernels"]
    table = None
    if given is not None:
        kernels = tuple(
            Kernel(**k | {"layers": tuple(k["layers"]), "replaces": tuple(k["replaces"])})
            for k in given["kernels"]
        )
        table = KernelTable(**given | {"kernels": kernels})
    names = ("producer", "opset", "value_bytes", "not_run")
    found = Inspection(
        file_bytes=size,
        inputs=tuple(body["inputs"]),
        outputs=tuple(body["outputs"]),
        layers=layers,
        kernels=table,
        **{name: body[name] for name in names},
    )
    check_types(found)
    return found


def _with_memory_of(found: Inspection, arch: Arch) -> Inspection:
    """The same with the memory and the clamps of an architecture, if its layers are those."""
    graph = arch.graph
    made_by = {op.y.name: op.name for op in graph.ops} | {graph.input.name: ""}
    ops = {op.name: op for op in graph.ops}
    if not ops.keys() <= {layer.name for layer in found.layers}:
        return found
    steps = {step.name: step for step in memory_steps(graph)[1:]}
    layers = []
    for layer in found.layers:
        op, step = ops.get(layer.name), steps.get(layer.name)
        if op is None or step is None:
            layers.append(dataclasses.replace(layer, alive=()))
            continue
        clamp = op.clamp if isinstance(op, (Conv, Add)) and found.value_bytes == 1 else "none"
        layers.append(
            dataclasses.replace(
                layer,
                kind=layer.kind if clamp == "none" else f"{layer.kind} {clamp}",
                alive=tuple((made_by[n], size * found.value_bytes) for n, size in step.alive),
                is_in_place=step.is_in_place,
            )
        )
    return dataclasses.replace(found, layers=tuple(layers), has_arch=True)
