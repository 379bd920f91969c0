"""Read an untrusted ONNX file and its signature, or give the reason why it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from lepton_automl.compress.external import rewrites
from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.untrusted.onnx_graph import MAX_SIDE, opset_of, parse

Layout = Literal["NCHW", "NHWC"]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_CLASSIFIER = "give a float image classifier as ONNX: one picture in, one score per class out"
_FLOAT_MODEL = "give the float model from which this file was made"


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
    batch: int = 0
    """Pictures that the file takes at once; 0: any number."""
    is_logit: bool = False
    """Its only output is the logit or the probability of the second of two classes."""


@dataclass(frozen=True)
class ReadModel:
    """A valid model in float32, and what was rewritten for that, in words."""

    model: ModelProto
    changes: tuple[str, ...]


def read(path: Path, *, on_weights: Callable[[int], None] = lambda _: None) -> ReadModel:
    """Read the model in a file, with external weights from the same folder.

    Nodes are sorted, half and double precision becomes float32, QuantizeLinear and
    DequantizeLinear become float values, local functions are inlined. `on_weights` receives the
    size of each file of weights before it is read.

    Raises
    ------
    DataError
        If it is not a valid ONNX model of standard operators.
    """
    content = untrusted_files.read_bytes(path, MODEL, fix=_CLASSIFIER)
    model = parse(path, content, path.parent, fix=_CLASSIFIER, on_weights=on_weights)
    _check_float(path, model)
    changes = _rewritten(path, model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _refused(path, f"not valid ONNX: {first_line(error)}", "export it again") from error
    return ReadModel(model, changes)


def signature(
    path: Path,
    model: ModelProto,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
) -> Signature:
    """Input and output of the model; of several outputs the graph keeps the scores.

    Parameters
    ----------
    path : Path
        For messages.
    model : ModelProto
        Its free height and width are set; an ArgMax at its end is removed.
    size : (int, int), optional
        Height and width for a model whose own are free.
    classes : int, optional
        Number of classes of the data, which selects one of several outputs.

    Raises
    ------
    DataError
        If it does not take one picture and return one score per class.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    entries = [value for value in graph.input if value.name not in stored]
    if len(entries) != 1:
        raise _refused(
            path,
            f"{len(entries)} inputs, an image classifier has one",
            "export only the part that takes the picture",
        )
    entry = entries[0]
    layout, sides = _picture(path, entry, size)
    end = _scores(path, model, classes)
    count, is_logit = _classes(path, end)
    kind = entry.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise _refused(
            path,
            f"input {entry.name} is {TensorProto.DataType.Name(kind)}, not float or uint8",
            "export it with a float or uint8 input",
        )
    return Signature(
        entry.name,
        end.name,
        layout,
        *sides,
        count,
        kind == TensorProto.UINT8,
        opset_of(model),
        entry.type.tensor_type.shape.dim[0].dim_value,
        is_logit,
    )


def has_free_size(model: ModelProto) -> bool:
    """Whether height or width of the input are not fixed in the file."""
    stored = {tensor.name for tensor in model.graph.initializer}
    entries = [value for value in model.graph.input if value.name not in stored]
    dims = [dim.dim_value for value in entries[:1] for dim in value.type.tensor_type.shape.dim]
    if len(dims) != 4:
        return False
    return 0 in (dims[1:3] if dims[3] in (1, 3) and dims[1] not in (1, 3) else dims[2:])


def _check_float(path: Path, model: ModelProto) -> None:
    integer = {n.op_type for n in model.graph.node} & _INTEGER_OPERATORS
    if integer:
        raise _refused(
            path,
            f"it is quantized already, to integer operators ({', '.join(sorted(integer))})",
            _FLOAT_MODEL,
        )


_INTEGER_OPERATORS = {
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
}


def _rewritten(path: Path, model: ModelProto) -> tuple[str, ...]:
    changes = []
    try:
        rewrites.sort_nodes(model.graph)
        if rewrites.to_float32(model):
            changes.append("half or double precision became float32")
        if rewrites.without_quantization(model):
            changes.append(
                "it was quantized (QuantizeLinear, DequantizeLinear): float values were restored "
                "and are quantized again"
            )
    except rewrites.Unsupported as error:
        raise _refused(path, f"{error}", _FLOAT_MODEL) from error
    return tuple(changes)


def _picture(
    path: Path, value: ValueInfoProto, size: tuple[int, int] | None
) -> tuple[Layout, tuple[int, int, int]]:
    shape = value.type.tensor_type.shape
    dims = [dim.dim_value for dim in shape.dim]
    if len(dims) != 4:
        raise _refused(
            path, f"input {value.name} has {len(dims)} dimensions, a picture has 4", _CLASSIFIER
        )
    layout: Layout = "NHWC" if dims[3] in (1, 3) and dims[1] not in (1, 3) else "NCHW"
    places = (1, 2, 3) if layout == "NHWC" else (2, 3, 1)
    if size is not None:
        for place, side in zip(places[:2], size, strict=True):
            if not dims[place]:
                shape.dim[place].dim_value = dims[place] = side
    height, width, channels = (dims[place] for place in places)
    if not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE:
        raise _refused(
            path,
            f"input {value.name} has {height or '?'}x{width or '?'} pixels: the size must be "
            f"fixed, 1 to {MAX_SIDE}",
            "state it in the file of --preprocessing, for instance\n    size = [224, 224]\n"
            "  or put the config.json or preprocessor_config.json of the model beside it",
        )
    if channels not in (1, 3):
        raise _refused(
            path,
            f"input {value.name} has {channels or '?'} channels, supported are 1 and 3",
            "export it with 1 or 3 channels fixed",
        )
    return layout, (height, width, channels)


def _scores(path: Path, model: ModelProto, classes: int | None) -> ValueInfoProto:
    """The output that holds the scores; the graph keeps only this one."""
    graph = model.graph
    fitting = [value for value in graph.output if _is_scores(value, classes)]
    if len(graph.output) > 1 and len(fitting) > 1:
        fitting = _before_activations(graph, fitting)
    if len(graph.output) > 1:
        if len(fitting) != 1:
            names = ", ".join(value.name for value in graph.output)
            raise _refused(
                path,
                f"{len(graph.output)} outputs ({names}), {len(fitting)} of them hold one score a "
                "class (detectors have several)",
                "export only the scores",
            )
        kept = ValueInfoProto()
        kept.CopyFrom(fitting[0])
        del graph.output[:]
        graph.output.append(kept)
    _cut_argmax(model)
    end: ValueInfoProto = graph.output[0]
    return end


def _is_scores(value: ValueInfoProto, classes: int | None) -> bool:
    if value.type.tensor_type.elem_type not in _FLOATS:
        return False
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    count = math.prod(dims[1:])
    return len(dims) > 1 and count > 0 and (classes is None or count == classes)


def _before_activations(graph: GraphProto, values: list[ValueInfoProto]) -> list[ValueInfoProto]:
    """Those outputs that are not the softmax or sigmoid of another output."""
    names = {value.name for value in values}
    derived = {
        node.output[0]
        for node in graph.node
        if node.op_type in ("Softmax", "Sigmoid", "LogSoftmax") and node.input[0] in names
    }
    return [value for value in values if value.name not in derived]


def _cut_argmax(model: ModelProto) -> None:
    """Return the scores, where the model returns the number of the best class."""
    graph = model.graph
    end = graph.output[0]
    node = next((n for n in graph.node if end.name in n.output), None)
    if node is None or node.op_type != "ArgMax":
        return
    source = node.input[0]
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    known = next((value for value in inferred if value.name == source), None)
    if known is not None:
        graph.node.remove(node)
        del graph.output[:]
        graph.output.append(known)


def _classes(path: Path, value: ValueInfoProto) -> tuple[int, bool]:
    """Number of classes, and whether the output is one logit for two classes."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    sizes = [size for size in dims[1:] if size != 1]
    if len(dims) == 1 or (len(dims) > 1 and not sizes):
        if len(dims) == 1 and dims[0] > 1:  # The only picture's dimension was squeezed away.
            return dims[0], False
        return 2, True
    if len(sizes) != 1 or sizes[0] < 2:
        raise _refused(
            path,
            f"output {value.name} has the shape {[d or '?' for d in dims]}, a classifier gives "
            "(n, classes), at least two",
            "export the scores of the classes, (n, classes)",
        )
    return sizes[0], False


def _refused(path: Path, why: str, fix: str) -> DataError:
    return DataError(f"{path}: {why}", fix=fix)
