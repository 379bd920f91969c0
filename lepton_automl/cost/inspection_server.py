"""The program of the child process of `cost.inspection`: inspects an ONNX file and times it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from lepton_automl.core.limited_process import Message, extend_limits, is_out_of_memory, serve
from lepton_automl.core.untrusted_files import is_of_machine
from lepton_automl.cost.inspection import BYTES_PER_BYTE, SECONDS_PER_BYTE
from lepton_automl.cost.kernels import KernelTable, kernel_table, random_feeds
from lepton_automl.cost.layer_table import fixed_batch, layer_table, with_measured_shapes
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.untrusted.onnx_graph import MALFORMED, WITH_ONNX_RUNTIME, opset_of, parse

_FIX = "check that it is an ONNX file that runs in ONNX Runtime"
_INTEGER = ("QuantizeLinear", "QLinearConv", "QLinearMatMul")


def answer(request: Message) -> Message:
    """Describe the file that the payload holds.

    Raises
    ------
    DataError
        If it is not an ONNX file, or its graph is malformed.
    """
    fields = request.fields
    source = fields["source"]
    try:
        return Message(_described(fields, request.payload))
    except MALFORMED as error:
        if is_of_machine(error) or is_out_of_memory(error):
            raise
        raise DataError(f"{source}: it is malformed: {first_line(error)}", fix=_FIX) from error


def _described(fields: dict[str, Any], content: bytes) -> dict[str, Any]:
    folder = Path(fields["folder"])
    source = fields["source"]
    model = parse(source, content, folder, fix=_FIX, on_weights=_extend, domains=WITH_ONNX_RUNTIME)
    is_quantized = any(node.op_type in _INTEGER for node in model.graph.node)
    value_bytes = 1 if is_quantized else 4
    fixed, feeds, why_not = fixed_batch(model), _feeds(model), ""
    table: KernelTable | None = None
    try:
        if not isinstance(feeds, str):
            fixed = with_measured_shapes(fixed, feeds)
            table = kernel_table(model.SerializeToString(), feeds, fields["seconds"])
        else:
            why_not = feeds
    except MALFORMED as error:
        if is_of_machine(error) or is_out_of_memory(error):
            raise
        why_not = first_line(error)
    layers = layer_table(fixed, value_bytes)
    return {
        "inputs": _ends(model, model.graph.input),
        "outputs": _ends(model, model.graph.output),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": opset_of(model),
        "value_bytes": value_bytes,
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "kernels": None if table is None else dataclasses.asdict(table),
        "not_run": why_not,
    }


def _extend(size: int) -> None:
    """Allow for weights of `size` bytes what is allowed for as many bytes of a file."""
    extend_limits(BYTES_PER_BYTE * size, SECONDS_PER_BYTE * size)


def _feeds(model: ModelProto) -> dict[str, NDArray[Any]] | str:
    """A sample for each input; or why the file cannot be run here."""
    try:
        return random_feeds(open_session(model.SerializeToString()))
    except MALFORMED as error:
        if is_of_machine(error) or is_out_of_memory(error):
            raise
        return first_line(error)


def _ends(model: ModelProto, values: Any) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in values:
        kind = value.type.tensor_type
        dims = ", ".join(str(dim.dim_value or dim.dim_param or "n") for dim in kind.shape.dim)
        if value.name not in stored:
            found.append(f"{value.name} {_type_name(kind.elem_type)} ({dims})")
    return found


def _type_name(number: int) -> str:
    from_number = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32"}
    return from_number.get(number, f"type {number}")


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    serve(answer)
