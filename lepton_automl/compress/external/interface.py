"""Give an external model the input and output of lepton's own files, its function unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_automl.compress.external.free_batch import Shape, UnsupportedBatch, free_batch
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.compress.external.reader import Signature
from lepton_automl.compress.external.rewrites import remove_unused
from lepton_automl.core.version import __version__
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.errors import DataError, first_line
from lepton_automl.models import onnx_file
from lepton_automl.models.onnx_file import UNLOADABLE, WEIGHTED
from lepton_automl.models.untrusted.onnx_graph import problem_of
from lepton_automl.models.untrusted.session import batch_of

_OPSET = 17
"""Older files are converted to it: scales per channel need 13."""
_PREFIX = "net/"
"""Added to every name of the model, to keep it apart from lepton's own names."""
_TOLERANCE = 1e-4


def wrap_model(
    path: Path,
    model: ModelProto,
    signature: Signature,
    preprocessing: ExternalPreprocessing | None,
    class_names: Sequence[str],
) -> ExternalModel:
    """Add nodes so that it takes uint8 (n, H, W, C) and returns probabilities (n, classes).

    ONNX Runtime's basic optimizations fold batch normalisation and constants.

    Raises
    ------
    DataError
        If it does not run, or a picture's result depends on the rest of its batch.
    """
    model = _fixed(model, signature)
    if signature.opset < _OPSET:
        model = _converted(path, model)
    plain = _with_free_batch(path, model, signature)
    graph, output = plain.graph, plain.graph.output[0].name
    affine = None if preprocessing is None else _cut_affine(graph, signature)
    remove_unused(graph)
    is_probability = _cut_activation(graph, output)
    is_flat = _rank(plain, signature) == 2
    ends = (
        _before(signature, preprocessing),
        _after(signature, output, is_flat=is_flat, is_probability=is_probability),
    )
    shape = (signature.height, signature.width, signature.channels)
    constants = _constants(signature, preprocessing, affine)
    framing = None if preprocessing is None else preprocessing.framing
    file = _joined(plain, ends, constants, shape, class_names, framing)
    _check(path, file, shape)
    words = "by the model itself" if preprocessing is None else str(preprocessing)
    around = tuple(node.name for side in ends for node in side)
    kept = (*around, *(_PREFIX + name for name in _end(plain, output)))
    return ExternalModel(file, shape, tuple(class_names), kept, words)


def _fixed(model: ModelProto, signature: Signature) -> ModelProto:
    """A copy in which every dimension of the input is fixed; a free batch becomes 1."""
    made = ModelProto()
    made.CopyFrom(model)
    entry = next(value for value in made.graph.input if value.name == signature.input)
    dims = entry.type.tensor_type.shape.dim
    dims[0].dim_value = signature.batch or 1
    sides = (signature.height, signature.width)
    for place, side in zip((1, 2) if signature.layout == "NHWC" else (2, 3), sides, strict=True):
        dims[place].dim_value = side
    del made.graph.value_info[:]
    for value in made.graph.output:
        value.type.tensor_type.ClearField("shape")
    return made


def _converted(path: Path, model: ModelProto) -> ModelProto:
    try:
        return onnx.version_converter.convert_version(model, _OPSET)
    except (onnx.version_converter.ConvertError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be converted to opset {_OPSET}: {first_line(error)}",
            fix=f"export the model with opset {_OPSET}",
        ) from error


def _plain(path: Path, model: ModelProto) -> ModelProto:
    """The model after constant folding and batch normalisation folding, in standard operators."""
    basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        _, plain = onnx_file.open_optimized(model.SerializeToString(), basic)
    except UNLOADABLE as error:
        raise DataError(
            f"{path} does not run in ONNX Runtime: {first_line(error)}",
            fix="export the model with standard operators",
        ) from error
    return plain


def _with_free_batch(path: Path, model: ModelProto, signature: Signature) -> ModelProto:
    """Fold constants at the fixed input shape, then make the batch dimension free.

    A file whose own batch is free is taken as it is where its folded form cannot be freed.

    Raises
    ------
    DataError
        If a picture's result depends on the rest of its batch.
    """
    folded = _plain(path, model)
    pixels = _inputs(signature, 3 * max(1, signature.batch))
    try:
        shapes = _shapes(folded, signature, pixels)
        freed = free_batch(folded, shapes)
        _check_same(folded, freed, signature, pixels)
    except (UnsupportedBatch, *UNLOADABLE) as error:
        if signature.batch:
            raise DataError(
                f"{path} cannot be used for several pictures at once: {first_line(error)}",
                fix="export the model with a free (dynamic) first dimension, from an example of "
                "two pictures",
            ) from error
        return _plain(path, _batch_named(model, signature))
    return freed


def _rank(model: ModelProto, signature: Signature) -> int:
    session = onnx_file.open_session(model.SerializeToString())
    pixels = _inputs(signature, max(1, signature.batch))
    return int(np.ndim(session.run(None, {signature.input: pixels})[0]))


def _batch_named(model: ModelProto, signature: Signature) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    entry = next(value for value in made.graph.input if value.name == signature.input)
    entry.type.tensor_type.shape.dim[0].dim_param = "n"
    return made


def _inputs(signature: Signature, count: int) -> np.ndarray:
    """Random pictures in the form of the model's own input."""
    sides = (signature.height, signature.width)
    shape = (signature.channels, *sides)
    if signature.layout == "NHWC":
        shape = (*sides, signature.channels)
    draws = np.random.default_rng(0)
    if signature.is_bytes:
        return draws.integers(0, 256, (count, *shape), np.uint8)
    return draws.random((count, *shape), np.float32)


def _shapes(model: ModelProto, signature: Signature, pixels: np.ndarray) -> dict[str, Shape]:
    """Shape of every value at the fixed batch, from a run of the model."""
    probe = ModelProto()
    probe.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    batch = np.ascontiguousarray(pixels[: max(1, signature.batch)])
    session = onnx_file.open_session(probe.SerializeToString())
    values = session.run(names, {signature.input: batch})
    found = {name: tuple(np.shape(value)) for name, value in zip(names, values, strict=True)}
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return stored | found | {signature.input: batch.shape}


def _check_same(
    fixed: ModelProto, freed: ModelProto, signature: Signature, pixels: np.ndarray
) -> None:
    """Check that the model with a free batch computes what the file computes.

    Raises
    ------
    UnsupportedBatch
        If it does not.
    """
    sessions = [onnx_file.open_session(each.SerializeToString()) for each in (fixed, freed)]
    size = max(1, signature.batch)
    parts = [
        sessions[0].run(None, {signature.input: np.ascontiguousarray(pixels[start : start + size])})
        for start in range(0, len(pixels), size)
    ]
    wanted = np.concatenate([np.asarray(part[0]).reshape(size, -1) for part in parts])
    given = np.asarray(sessions[1].run(None, {signature.input: pixels})[0])
    if given.shape[:1] != (len(pixels),) or given.size != wanted.size:
        raise UnsupportedBatch(f"{len(pixels)} pictures give an output {given.shape}")
    given = given.reshape(wanted.shape)
    finite = np.isfinite(wanted) & np.isfinite(given)  # `_check` reports all others.
    apart = np.abs(given[finite] - wanted[finite]).max(initial=0.0)
    largest = float(np.abs(wanted[finite]).max(initial=0.0))
    if apart > _TOLERANCE * max(1.0, largest):
        raise UnsupportedBatch("a picture's result depends on the rest of its batch")


_SHAPING = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_SELECTING = ("Gather", "Slice")
"""Before a sigmoid they do what they do after it; before a softmax they do not."""


def _cut_activation(graph: GraphProto, output: str) -> bool:
    """Cut the softmax or sigmoid at the end; whether the output is still a probability."""
    makers = {value: node for node in graph.node for value in node.output}
    node, selects = makers.get(output), False
    while node is not None and node.op_type in (*_SHAPING, *_SELECTING):
        selects = selects or node.op_type in _SELECTING
        node = makers.get(node.input[0])
    if node is None or node.op_type not in ("Softmax", "Sigmoid"):
        return False
    if selects and node.op_type == "Softmax":
        return True
    if sum(node.output[0] in each.input for each in graph.node) > 1:
        return True
    node.op_type = "Identity"
    del node.attribute[:]
    return False


def _end(model: ModelProto, output: str) -> list[str]:
    """Names of the nodes after the last layer: with 256 steps, classes would tie."""
    makers = {value: node for node in model.graph.node for value in node.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    found: list[str] = []
    node = makers.get(output)
    while node is not None and node.op_type not in WEIGHTED:
        node.name = node.name or f"end_{len(found)}"
        found.append(node.name)
        sources = [value for value in node.input if value and value not in stored]
        node = makers.get(sources[0]) if len(sources) == 1 else None
    return found


Ends = tuple[list[NodeProto], list[NodeProto]]


def _before(signature: Signature, preprocessing: ExternalPreprocessing | None) -> list[NodeProto]:
    """Nodes that turn uint8 pixels (n, H, W, C) into the model's own input."""
    before: list[NodeProto] = []

    def add(kind: str, *inputs: str, **more: Any) -> str:
        name = f"before_{len(before)}"
        before.append(helper.make_node(kind, inputs, [name], name, **more))
        return name

    x = onnx_file.INPUT_NAME
    if preprocessing is not None and preprocessing.order == "BGR":
        x = add("Gather", x, "before/turned", axis=3)
    if signature.layout == "NCHW":
        x = add("Transpose", x, perm=[0, 3, 1, 2])
    if preprocessing is not None:
        x = add("Cast", x, to=TensorProto.FLOAT)
        x = add("Mul", x, "before/gain")
        x = add("Add", x, "before/offset")
    if not before:
        x = add("Identity", x)
    before[-1].output[0] = _PREFIX + signature.input
    return before


def _after(
    signature: Signature, output: str, *, is_flat: bool, is_probability: bool
) -> list[NodeProto]:
    """Nodes that turn the model's output into probabilities (n, classes)."""
    after: list[NodeProto] = []
    last = _PREFIX + output
    if not is_flat:  # (n, classes, 1, 1), (n, 1, 1, classes) or (n,)
        after.append(helper.make_node("Flatten", [last], ["after/flat"], "after_flat", axis=1))
        last = "after/flat"
    if signature.is_logit and is_probability:
        after.append(helper.make_node("Sub", ["after/one", last], ["after/other"], "after_other"))
        after.append(
            helper.make_node("Concat", ["after/other", last], ["after/two"], "after_two", axis=1)
        )
        last = "after/two"
    elif signature.is_logit:
        # softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)]
        after.append(helper.make_node("Pad", [last, "after/left"], ["after/two"], "after_two"))
        last = "after/two"
    kind, more = ("Identity", {}) if is_probability else ("Softmax", {"axis": 1})
    end: Any = helper.make_node(kind, [last], [onnx_file.OUTPUT_NAME], "after", **more)  # type: ignore[arg-type]
    return [*after, end]


def with_preprocessing(
    file: bytes, known: ExternalPreprocessing, other: ExternalPreprocessing
) -> bytes:
    """A wrapped model whose pixels are scaled and shifted in another way; its graph stays.

    Parameters
    ----------
    file : bytes
        Made by `wrap_model` for a model that takes float pixels, with `known`.
    known, other : ExternalPreprocessing
        Of `other` only scale, mean and deviation count, not the order of the channels.
    """
    model = ModelProto.FromString(file)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    old = {name: numpy_helper.to_array(stored[name]) for name in ("before/gain", "before/offset")}
    shape = old["before/gain"].shape
    (gain, offset), (new_gain, new_offset) = (
        (pair[0].reshape(shape), pair[1].reshape(shape)) for pair in map(_affine_of, (known, other))
    )
    # The model's own factor and summand were multiplied into the constants.
    factor = old["before/gain"] / gain
    new = {
        "before/gain": factor * new_gain,
        "before/offset": old["before/offset"] + factor * (new_offset - offset),
    }
    for name, array in new.items():
        stored[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return bytes(model.SerializeToString())


Affine = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Factor and summand of each channel."""


def _affine_of(known: ExternalPreprocessing) -> Affine:
    mean, std = (np.array(v, np.float64) for v in (known.mean, known.std))
    return known.scale / std, -mean / std


def _cut_affine(graph: GraphProto, signature: Signature) -> Affine:
    """Cut Sub, Mul, Add and Div by constants that follow the input, as Keras leaves them there.

    Returns
    -------
    Affine
        What they compute, for the nodes that preprocess the pixels; as operators of the model they
        would stay in float, with conversions to int8 and back between them.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    gain, offset = np.ones(signature.channels), np.zeros(signature.channels)
    while True:
        readers = [node for node in graph.node if signature.input in node.input]
        if len(readers) != 1 or readers[0].output[0] == graph.output[0].name:
            return gain, offset
        step = _affine_step(readers[0], signature, stored)
        if step is None:
            return gain, offset
        gain, offset = gain * step[0], offset * step[0] + step[1]
        for node in graph.node:
            node.input[:] = [
                signature.input if name == readers[0].output[0] else name for name in node.input
            ]
        graph.node.remove(readers[0])


def _affine_step(
    node: NodeProto, signature: Signature, stored: Mapping[str, np.ndarray]
) -> Affine | None:
    """Factor and summand of one operator; None if it is something else."""
    if node.op_type not in ("Sub", "Mul", "Add", "Div") or len(set(node.input)) != 2:
        return None
    is_first = node.input[0] == signature.input
    constant = stored.get(node.input[1 if is_first else 0])
    if constant is None or constant.ndim > 4:
        return None
    shape = (1,) * (4 - constant.ndim) + constant.shape
    axis = 3 if signature.layout == "NHWC" else 1
    if any(size != 1 for place, size in enumerate(shape) if place != axis):
        return None
    if shape[axis] not in (1, signature.channels):
        return None
    value = np.broadcast_to(constant.reshape(-1).astype(np.float64), (signature.channels,))
    one, zero = np.ones(signature.channels), np.zeros(signature.channels)
    if node.op_type == "Mul":
        return value, zero
    if node.op_type == "Add":
        return one, value
    if node.op_type == "Sub":
        return (one, -value) if is_first else (-one, value)
    return (1 / value, zero) if is_first and (value != 0).all() else None


def _constants(
    signature: Signature, preprocessing: ExternalPreprocessing | None, affine: Affine | None
) -> list[TensorProto]:
    ends = [
        numpy_helper.from_array(np.array([0, 1, 0, 0], np.int64), "after/left"),
        numpy_helper.from_array(np.ones(1, np.float32), "after/one"),
    ]
    ends = ends if signature.is_logit else []
    if preprocessing is None or affine is None:
        return ends
    gain, offset = _affine_of(preprocessing)
    shape = (1, -1, 1, 1) if signature.layout == "NCHW" else (1, 1, 1, -1)
    found = {
        "before/gain": (gain * affine[0]).astype(np.float32).reshape(shape),
        "before/offset": (offset * affine[0] + affine[1]).astype(np.float32).reshape(shape),
    }
    if preprocessing.order == "BGR":
        found["before/turned"] = np.array([2, 1, 0], np.int64)
    return [*ends, *(numpy_helper.from_array(array, name) for name, array in found.items())]


def _joined(
    model: ModelProto,
    ends: Ends,
    constants: Sequence[TensorProto],
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    framing: Framing | None,
) -> bytes:
    inner = onnx.compose.add_prefix(model, _PREFIX).graph
    before, after = ends
    graph = helper.make_graph(
        [*before, *inner.node, *after],
        "lepton",
        [helper.make_tensor_value_info(onnx_file.INPUT_NAME, TensorProto.UINT8, ["n", *shape])],
        [
            helper.make_tensor_value_info(
                onnx_file.OUTPUT_NAME, TensorProto.FLOAT, ["n", len(class_names)]
            )
        ],
        [*inner.initializer, *constants],
    )
    made = helper.make_model(
        graph,
        opset_imports=[item for item in model.opset_import if item.domain in ("", "ai.onnx")],
        ir_version=min(model.ir_version, 10),
        producer_name="lepton",
        producer_version=__version__,
    )
    words = {"labels": json.dumps(list(class_names), ensure_ascii=False)}
    helper.set_model_props(
        made, words | ({} if framing is None else {"framing": framing.to_json()})
    )
    return bytes(made.SerializeToString(deterministic=True))


def _check(path: Path, file: bytes, shape: tuple[int, int, int]) -> None:
    """Check that it gives probabilities, and a picture's do not depend on the rest of its batch.

    It is run on a batch as large as later ones, so that its limits on memory and time hold there.
    """
    count = max(3, batch_of(shape))
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    try:
        opened = onnx_file.open_session(file)
        together = onnx_file.predict_probabilities(opened, pixels, batch=count)
        alone = onnx_file.predict_probabilities(opened, pixels[:3], batch=1)
    except UNLOADABLE as error:
        raise DataError(
            f"{path} does not run on a batch of pictures: {first_line(error)}",
            fix="export the model with a free (dynamic) first dimension",
        ) from error
    if together.shape[1:] != alone.shape[1:] or not np.isfinite(together).all():
        raise DataError(f"{path} returns values that are not finite", fix="check the model")
    if np.abs(together[:3] - alone).max() > _TOLERANCE:
        raise DataError(
            f"the result of {path} for a picture depends on the rest of its batch",
            fix="export the model in evaluation mode",
        )
    problem = problem_of(together, count, opened.get_outputs()[0].shape[1])
    if problem:
        raise DataError(
            f"the results of {path} are not probabilities: {problem}",
            fix="export the model up to its scores, without what follows them",
        )
