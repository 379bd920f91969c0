"""Read an untrusted ONNX file and its signature, or give the reason why it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto
from onnx.external_data_helper import load_external_data_for_model

from lepton_automl.errors import DataError, first_line

_MIN_OPSET, _MAX_OPSET = 11, 22
_MAX_BYTES = 1 << 30
"""Limit on a file; image classifiers for small devices are a thousandth of it."""
_MAX_SIDE = 4096
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Signature:
    """Input and output of an image classifier."""

    input: str
    output: str
    layout: Layout
    height: int
    width: int
    channels: int
    """1 or 3."""
    classes: int
    is_bytes: bool
    """It takes uint8 pixels and preprocesses them itself."""
    opset: int


def read(path: Path) -> ModelProto:
    """Read the model in a file, with external weights from the same folder.

    Raises
    ------
    DataError
        If it is no valid ONNX model of standard operators.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise _refused(path, f"it has {size} bytes, at most {_MAX_BYTES} are supported")
        model: ModelProto = ModelProto.FromString(path.read_bytes())
    except (OSError, DecodeError, ValueError) as error:
        raise _refused(path, f"not an ONNX file: {error or 'damaged'}") from error
    _check_graph(path, model)
    _fetch_external(path, model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _refused(path, f"not valid ONNX: {first_line(error)}") from error
    return model


def signature(path: Path, model: ModelProto) -> Signature:
    """Input and output of the model.

    Raises
    ------
    DataError
        If it does not take one picture of a fixed size and return one score per class.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    entries = [value for value in graph.input if value.name not in stored]
    if len(entries) != 1 or len(graph.output) != 1:
        raise _refused(
            path,
            f"{len(entries)} inputs and {len(graph.output)} outputs, a classifier has one of each"
            + (" (detectors have several)" if len(graph.output) > 1 else ""),
        )
    entry, end = entries[0], graph.output[0]
    layout, sides = _picture(path, entry)
    classes = _classes(path, end)
    kind = entry.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise _refused(
            path,
            f"input {entry.name} is {TensorProto.DataType.Name(kind)}, not float or uint8",
        )
    return Signature(
        entry.name, end.name, layout, *sides, classes, kind == TensorProto.UINT8, opset_of(model)
    )


def opset_of(model: ModelProto) -> int:
    """Version of the standard operators."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _check_graph(path: Path, model: ModelProto) -> None:
    opset = opset_of(model)
    if not model.graph.node:
        raise _refused(path, "it has no operators")
    if not _MIN_OPSET <= opset <= _MAX_OPSET:
        raise _refused(path, f"it has opset {opset}, supported are {_MIN_OPSET} to {_MAX_OPSET}")
    unknown = {
        f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")
    }
    if unknown or model.functions:
        names = ", ".join(sorted(unknown)[:3]) or "custom functions"
        raise _refused(path, f"it uses {names}, only standard ONNX operators are supported")
    if any(_has_graph(node.attribute) for node in model.graph.node):
        raise _refused(path, "it has control flow (If, Loop, Scan), which is not supported")
    if any(n.op_type in ("QuantizeLinear", "QLinearConv") for n in model.graph.node):
        raise _refused(path, "it is quantized already; the float model is needed")


def _has_graph(attributes: object) -> bool:
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return any(item.type in kinds for item in attributes)  # type: ignore[attr-defined]


def _fetch_external(path: Path, model: ModelProto) -> None:
    """Load external weights, from plain files in the model's own folder only."""
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key != "location":
                continue
            place = path.parent / item.value
            is_plain = Path(item.value).name == item.value and place.is_file()
            if not is_plain or place.is_symlink():
                raise _refused(
                    path,
                    f"its weights are in {item.value!r}; only files in the same folder are read",
                )
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise _refused(path, f"its weights cannot be read: {error}") from error


def _picture(path: Path, value: ValueInfoProto) -> tuple[Layout, tuple[int, int, int]]:
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if len(dims) != 4:
        raise _refused(path, f"input {value.name} has {len(dims)} dimensions, a picture has 4")
    layout: Layout = "NHWC" if dims[3] in (1, 3) and dims[1] not in (1, 3) else "NCHW"
    channels, height, width = (
        (dims[3], dims[1], dims[2]) if layout == "NHWC" else (dims[1], dims[2], dims[3])
    )
    if not 0 < height <= _MAX_SIDE or not 0 < width <= _MAX_SIDE:
        raise _refused(
            path,
            f"input {value.name} has {height or '?'}x{width or '?'} pixels: the size must be fixed "
            f"in the file, 1 to {_MAX_SIDE}; only the first dimension may be free",
        )
    if channels not in (1, 3):
        raise _refused(
            path, f"input {value.name} has {channels or '?'} channels, supported are 1 and 3"
        )
    return layout, (height, width, channels)


def _classes(path: Path, value: ValueInfoProto) -> int:
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if len(dims) != 2 or dims[1] < 2:
        raise _refused(
            path,
            f"output {value.name} has the shape {[d or '?' for d in dims]}, a classifier gives "
            "(n, classes), at least two",
        )
    return int(dims[1])


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: {why}",
        fix="give a float image classifier as ONNX: one picture in, one score per class out",
    )
