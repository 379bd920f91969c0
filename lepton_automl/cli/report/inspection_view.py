"""Tables of `lepton inspect`."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepton_automl.core import units
from lepton_automl.cost.inspection import Inspection
from lepton_automl.cost.kernels import Kernel
from lepton_automl.pipeline.inspection import NetReport


def inspection_view(report: NetReport) -> RenderableType:
    """The layers, the kernels of ONNX Runtime, and what they add up to."""
    found = report.inspection
    parts: list[RenderableType] = [Text(line) for line in _head(report)]
    parts.append(_layers(found))
    if found.kernels is None:
        parts.append(Text(f"not run here: {found.not_run}", "yellow"))
    else:
        parts += [_kernels(found), *(Text(line) for line in _times(report))]
    return Group(*parts)


def _head(report: NetReport) -> list[str]:
    found = report.inspection
    ends = f"{', '.join(found.inputs)} -> {', '.join(found.outputs)}"
    rest = found.file_bytes - found.parameter_bytes
    sizes = f"{units.bytes_text(found.file_bytes)}: {units.bytes_text(found.parameter_bytes)} "
    sizes += f"weights, biases and scales, {units.bytes_text(max(0, rest))} graph and metadata"
    made = f"made by {found.producer or 'an unnamed program'}, opset {found.opset}"
    return [f"{report.path}  {report.sha256[:12]}", ends, f"{sizes}; {made}"]


def _layers(found: Inspection) -> Table:
    kernels = found.kernels_by_layer()
    table = _table("layer", "kind", "result", "parameters", "MACs", "memory", "kernel", "time")
    peak = found.peak
    seen = set[str]()
    for layer in found.layers:
        kernel = kernels.get(layer.name)
        is_first = kernel is not None and kernel.name not in seen
        if kernel is not None:
            seen.add(kernel.name)
        is_peak = peak is not None and layer.ram_bytes == peak.ram_bytes and layer.ram_bytes > 0
        memory = units.bytes_text(layer.ram_bytes) if layer.alive else ""
        memory += " peak" if is_peak else ""
        table.add_row(
            layer.name,
            layer.kind,
            "x".join(map(str, layer.shape)),
            units.bytes_text(layer.parameter_bytes) if layer.parameter_bytes else "",
            units.count_text(layer.macs) if layer.macs else "",
            Text(memory, "bold yellow" if is_peak else ""),
            "" if kernel is None else kernel.kind if is_first else "the same",
            "" if kernel is None or not is_first else _time(kernel.microseconds),
        )
    how = (
        "sums, products and gates are written over their inputs"
        if found.has_arch
        else "nothing in place"
    )
    size = 0 if peak is None else peak.ram_bytes
    table.caption = (
        f"{units.count_text(found.macs)} multiply-accumulates; feature maps alive: at most "
        f"{units.bytes_text(size)} ({how}; {found.value_bytes} B an element)"
    )
    return table


def _kernels(found: Inspection) -> Table:
    """One row for all kernels of a kind that replace the same operators."""
    assert found.kernels is not None
    table = _table("kernel", "replaces", "count", "time", "share")
    groups: dict[tuple[str, str], list[float]] = {}
    for kernel in found.kernels.kernels:
        replaced = ", ".join(kernel.replaces) or "nothing: ONNX Runtime added it to change a layout"
        groups.setdefault((kernel.kind, replaced), []).append(kernel.microseconds)
    for (kind, replaced), times in sorted(groups.items(), key=lambda item: -sum(item[1])):
        share = sum(times) / found.kernels.call_microseconds
        table.add_row(kind, replaced, str(len(times)), _time(sum(times)), f"{share:.0%}")
    return table


def _times(report: NetReport) -> list[str]:
    table = report.inspection.kernels
    assert table is not None
    lines = [
        f"a call takes {_time(table.call_microseconds)}, of which {_time(table.rest_microseconds)} "
        f"outside of the kernels; batch 1, one thread, on {report.machine}"
    ]
    if table.at_load:
        lines.append(f"{table.at_load} operators on constants are computed when the file is opened")
    return lines


def _time(microseconds: float) -> str:
    return units.time_text(microseconds / 1e3) if microseconds >= 0.05 else "< 0.1 us"


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        right = column in {"parameters", "MACs", "memory", "time", "share", "result", "count"}
        table.add_column(column, justify="right" if right else "left")
    return table


def inspection_document(report: NetReport) -> dict[str, Any]:
    """The object of `inspect`."""
    found, peak = report.inspection, report.inspection.peak
    kernels = found.kernels
    return {
        "file": str(report.path),
        "sha256": report.sha256,
        "is_sealed": report.is_sealed,
        "file_bytes": found.file_bytes,
        "parameter_bytes": found.parameter_bytes,
        "macs": found.macs,
        "peak_ram_bytes": 0 if peak is None else peak.ram_bytes,
        "peak_layer": None if peak is None else peak.name,
        "value_bytes": found.value_bytes,
        "inputs": list(found.inputs),
        "outputs": list(found.outputs),
        "producer": found.producer,
        "opset": found.opset,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "reads": list(layer.reads),
                "shape": list(layer.shape),
                "parameter_bytes": layer.parameter_bytes,
                "macs": layer.macs,
                "ram_bytes": layer.ram_bytes,
                "alive": [{"layer": name, "bytes": size} for name, size in layer.alive],
                "is_in_place": layer.is_in_place,
            }
            for layer in found.layers
        ],
        "kernels": [] if kernels is None else [_kernel_document(k) for k in kernels.kernels],
        "call_microseconds": kernels and kernels.call_microseconds,
        "rest_microseconds": kernels and kernels.rest_microseconds,
        "not_run": found.not_run,
        "machine": str(report.machine),
    }


def _kernel_document(kernel: Kernel) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "kind": kernel.kind,
        "layers": list(kernel.layers),
        "replaces": list(kernel.replaces),
        "microseconds": kernel.microseconds,
    }
