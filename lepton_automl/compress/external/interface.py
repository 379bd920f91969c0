"""Give an external model the input and output of lepton's own files, its function unchanged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_automl.compress.external.model import ExternalModel, last_softmax
from lepton_automl.compress.external.preprocessing import Preprocessing
from lepton_automl.compress.external.reader import Signature
from lepton_automl.core.version import __version__
from lepton_automl.cost.onnx_cost import WEIGHTED
from lepton_automl.errors import DataError, first_line
from lepton_automl.models import onnx_file
from lepton_automl.models.onnx_file import UNLOADABLE

_OPSET = 17
"""Older files are converted to it: scales per channel need 13."""
_PREFIX = "net/"
"""Added to every name of the model, to keep it apart from lepton's own names."""
_TOLERANCE = 1e-4


def wrap_model(
    path: Path,
    model: ModelProto,
    signature: Signature,
    preprocessing: Preprocessing | None,
    class_names: Sequence[str],
) -> ExternalModel:
    """Add nodes so that it takes uint8 (n, H, W, C) and returns probabilities (n, classes).

    ONNX Runtime's basic optimizations fold batch normalisation and constants.

    Raises
    ------
    DataError
        If it does not run, or a picture's result depends on the rest of its batch.
    """
    if signature.opset < _OPSET:
        model = _converted(path, model)
    model = _with_free_batch(_plain(path, model))
    ends = _ends(signature, preprocessing, last_softmax(model.graph, signature.output) is not None)
    shape = (signature.height, signature.width, signature.channels)
    constants = _constants(signature, preprocessing)
    file = _joined(model, ends, constants, shape, class_names)
    _check(path, file, shape)
    words = "by the model itself" if preprocessing is None else str(preprocessing)
    around = tuple(node.name for side in ends for node in side)
    kept = (*around, *(_PREFIX + name for name in _end(model, signature.output)))
    return ExternalModel(file, shape, tuple(class_names), kept, words)


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
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plain.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(out)
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except UNLOADABLE as error:
            raise DataError(
                f"{path} does not run in ONNX Runtime: {first_line(error)}",
                fix="export the model with standard operators",
            ) from error
        return onnx.load(str(out))


def _with_free_batch(model: ModelProto) -> ModelProto:
    """Make the batch dimension free, where the file was exported with a fixed one."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    entry = next(value for value in graph.input if value.name not in stored)
    batch = entry.type.tensor_type.shape.dim[0].dim_value
    for value in (entry, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del graph.value_info[:]
    shaped = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for name in shaped & stored.keys():
        target = numpy_helper.to_array(stored[name]).copy()
        if batch and target.size and target[0] == batch:
            target[0] = 0 if (target == -1).any() or target.size > 1 else -1
            stored[name].CopyFrom(numpy_helper.from_array(target, name))
    return model


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


def _ends(signature: Signature, preprocessing: Preprocessing | None, is_softmax: bool) -> Ends:
    """Nodes before and after the model."""
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
    source = _PREFIX + signature.output
    kind, more = ("Identity", {}) if is_softmax else ("Softmax", {"axis": 1})
    after: Any = helper.make_node(kind, [source], [onnx_file.OUTPUT_NAME], "after", **more)  # type: ignore[arg-type]
    return before, [after]


def _constants(signature: Signature, preprocessing: Preprocessing | None) -> list[TensorProto]:
    if preprocessing is None:
        return []
    mean, std = (np.array(v, np.float64) for v in (preprocessing.mean, preprocessing.std))
    shape = (1, -1, 1, 1) if signature.layout == "NCHW" else (1, 1, 1, -1)
    found = {
        "before/gain": (preprocessing.scale / std).astype(np.float32).reshape(shape),
        "before/offset": (-mean / std).astype(np.float32).reshape(shape),
    }
    if preprocessing.order == "BGR":
        found["before/turned"] = np.array([2, 1, 0], np.int64)
    return [numpy_helper.from_array(array, name) for name, array in found.items()]


def _joined(
    model: ModelProto,
    ends: Ends,
    constants: Sequence[TensorProto],
    shape: tuple[int, int, int],
    class_names: Sequence[str],
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
    helper.set_model_props(made, {"labels": json.dumps(list(class_names), ensure_ascii=False)})
    return bytes(made.SerializeToString(deterministic=True))


def _check(path: Path, file: bytes, shape: tuple[int, int, int]) -> None:
    """Check that a picture's result does not depend on the rest of its batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    try:
        opened = onnx_file.open_session(file)
        together = onnx_file.predict_probabilities(opened, pixels, batch=3)
        alone = onnx_file.predict_probabilities(opened, pixels, batch=1)
    except UNLOADABLE as error:
        raise DataError(
            f"{path} does not run on a batch of pictures: {first_line(error)}",
            fix="export the model with a free (dynamic) first dimension",
        ) from error
    if together.shape != alone.shape or not np.isfinite(alone).all():
        raise DataError(f"{path} returns values that are not finite", fix="check the model")
    if np.abs(together - alone).max() > _TOLERANCE:
        raise DataError(
            f"the result of {path} for a picture depends on the rest of its batch",
            fix="export the model in evaluation mode",
        )
