"""Write the log-mel front end as ONNX operators, cut it out of a file, and compute features."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from lepton_automl.core import large_arrays
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.onnx_file import AUDIO_NAME, OnnxWriter, open_session

_BATCH = 64


def append_front_end(writer: OnnxWriter, front_end: LogMel) -> str:
    """Append what computes features from `audio`, int16 (n, window).

    Returns
    -------
    str
        Name of the features, uint8 (n, 1, frames, mels).
    """
    x = _append_logarithms(writer, front_end)
    scale = writer.constant(np.float32(front_end.step))
    x = writer.node("QuantizeLinear", x, scale, writer.constant(np.uint8(front_end.zero_point)))
    return writer.node("Unsqueeze", x, writer.constant(np.array([1], np.int64)))


def _append_logarithms(writer: OnnxWriter, front_end: LogMel) -> str:
    """Append the features before they are quantized, float32 (n, frames, mels)."""
    x = writer.node("Add", _append_power(writer, front_end), writer.constant(np.float32(1)))
    x = writer.node("Log", x)
    if not front_end.is_centred:
        return x
    return writer.node("Sub", x, writer.node("ReduceMean", x, axes=[1], keepdims=1))


def _append_power(writer: OnnxWriter, front_end: LogMel) -> str:
    """Append the powers of the filters divided by the floor, float32 (n, frames, mels)."""
    node, constant = writer.node, writer.constant
    frame = constant(np.int64(front_end.frame))
    x = node("Cast", AUDIO_NAME, to=TensorProto.FLOAT)
    x = node("Unsqueeze", x, constant(np.array([2], np.int64)))
    # `onesided` is stated because onnx's shape inference takes 0 where it is left out.
    window = node("HannWindow", frame)
    x = node("STFT", x, constant(np.int64(front_end.hop)), window, frame, onesided=1)
    x = node("Mul", x, x)
    x = node("ReduceSum", x, constant(np.array([3], np.int64)), keepdims=0)
    return node("MatMul", x, _append_filters(writer, front_end))


def _append_filters(writer: OnnxWriter, front_end: LogMel) -> str:
    """Append the filters, float32 (bins, mels), as lines of which each takes the lesser, above 0.

    The numbers of these lines take 16 bytes a filter, the filters themselves 4 a bin and filter.
    ONNX Runtime computes them once, when it loads the file.
    """
    node, constant = writer.node, writer.constant
    start, top, end = (front_end.corners[n : front_end.mels + n] for n in range(3))
    lines = (1 / (top - start), -start / (top - start), -1 / (end - top), end / (end - top))
    rise, from_start, fall, from_end = (
        constant((line / front_end.floor).astype(np.float32)) for line in lines
    )
    zero, one = constant(np.int64(0)), constant(np.int64(1))
    x = node("Range", zero, constant(np.int64(front_end.bins)), one)
    x = node("Cast", x, to=TensorProto.FLOAT)
    x = node("Unsqueeze", x, constant(np.array([1], np.int64)))
    up = node("Add", node("Mul", x, rise), from_start)
    down = node("Add", node("Mul", x, fall), from_end)
    return node("Relu", node("Min", up, down))


def front_end_of(file: bytes) -> bytes | None:
    """The front end of a file that reads audio, as a file with the output `features`.

    Returns
    -------
    bytes or None
        Its operators up to the first quantized tensor; None of a file that reads something else.
    """
    model = ModelProto.FromString(file)
    graph = model.graph
    end = features_name(model)
    if end is None:
        return None
    nodes = list(ancestors(list(graph.node), end))
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    output = helper.make_tensor_value_info(end, TensorProto.UINT8, None)
    del graph.node[:], graph.initializer[:], graph.output[:], model.metadata_props[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.output.append(output)
    return bytes(model.SerializeToString(deterministic=True))


def features_name(model: ModelProto) -> str | None:
    """Name of the first quantized tensor of a file that reads audio; None of other files."""
    if [value.name for value in model.graph.input] != [AUDIO_NAME]:
        return None
    found = (str(n.output[0]) for n in model.graph.node if n.op_type == "QuantizeLinear")
    return next(found, None)


def ancestors(nodes: list[NodeProto], name: str) -> list[NodeProto]:
    """The nodes, which are in an order of computation, that compute the tensor `name`."""
    wanted, found = {name}, list[NodeProto]()
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def compute_features(front_end: LogMel, audio: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Features of windows as a file computes them.

    Parameters
    ----------
    front_end : LogMel
        The front end.
    audio : int16 array (N, window)
        PCM samples.

    Returns
    -------
    uint8 array (N, frames, mels, 1)
        What nets see.
    """
    writer = OnnxWriter()
    name = append_front_end(writer, front_end)
    file = writer.part((AUDIO_NAME, np.int16, (front_end.window,)), (name, np.uint8))
    found = _run(file, audio, np.uint8, (1, *front_end.feature_shape[:2]))
    return found.reshape(len(audio), *front_end.feature_shape)


def compute_power(front_end: LogMel, audio: NDArray[np.int16]) -> NDArray[np.float32]:
    """Powers of the filters divided by the floor, float32 (N, frames, mels)."""
    writer = OnnxWriter()
    return _floats(writer, _append_power(writer, front_end), front_end, audio)


def compute_logarithms(front_end: LogMel, audio: NDArray[np.int16]) -> NDArray[np.float32]:
    """Features before they are quantized, nepers, float32 (N, frames, mels)."""
    writer = OnnxWriter()
    return _floats(writer, _append_logarithms(writer, front_end), front_end, audio)


def _floats(
    writer: OnnxWriter, name: str, front_end: LogMel, audio: NDArray[np.int16]
) -> NDArray[np.float32]:
    file = writer.part((AUDIO_NAME, np.int16, (front_end.window,)), (name, np.float32))
    return _run(file, audio, np.float32, front_end.feature_shape[:2])


def _run(
    file: bytes, audio: NDArray[np.int16], kind: type[np.generic], shape: tuple[int, ...]
) -> NDArray[Any]:
    session = open_session(file)
    found = large_arrays.empty((len(audio), *shape), kind)

    def put(start: int) -> None:
        batch = np.ascontiguousarray(audio[start : start + _BATCH])
        (found[start : start + _BATCH],) = session.run(None, {AUDIO_NAME: batch})

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(put, range(0, len(audio), _BATCH)))
    return found
