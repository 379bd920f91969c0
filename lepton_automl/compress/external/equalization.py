"""Cross-layer equalization of ONNX graphs (Nagel et al. 2019, section 4.1, arXiv:1906.04721).

It covers chains of a convolution, homogeneous operators such as ReLU, and the next convolution or
matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from lepton_automl.models import onnx_file

_HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "GlobalAveragePool", "AveragePool", "Identity"}
_FLAT = {"Flatten", "Reshape", "Squeeze"}
_PASSES = 4
_MAX_FACTOR = 1e4
"""Channels are rescaled by at most this factor, up or down."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Chain:
    """Two nodes with weights, and the name of the value that the second one reads."""

    first: NodeProto
    second: NodeProto
    between: str


def chains(model: ModelProto) -> list[Chain]:
    """Chains whose channels can be rescaled without changing the function."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    stored = {tensor.name for tensor in model.graph.initializer}
    found = [_chain(node, readers) for node in model.graph.node if _is_conv(node, stored)]
    return [c for c in found if c is not None and _is_weighted(c.second, stored)]


def equalize_onnx(file: bytes, pixels: NDArray[np.uint8]) -> bytes:
    """The same function with channels of more equal range.

    Parameters
    ----------
    file : bytes
        A wrapped model, batch normalisation folded.
    pixels : uint8 array (N, H, W, C)
        Training pictures, to measure the range of each channel.
    """
    model = ModelProto.FromString(file)
    found = chains(model)
    if not found:
        return file
    weights = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    peaks = _peaks(model, [chain.between for chain in found], pixels)
    for _ in range(_PASSES):
        for chain in found:
            _rescale(chain, weights, peaks)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return bytes(model.SerializeToString(deterministic=True))


def _chain(node: NodeProto, readers: Mapping[str, list[NodeProto]]) -> Chain | None:
    name, is_flat = node.output[0], False
    while len(readers.get(name, [])) == 1:
        reader = readers[name][0]
        if reader.op_type in _HOMOGENEOUS and not is_flat:
            name = reader.output[0]
        elif reader.op_type in _FLAT and reader.input[0] == name:
            name, is_flat = reader.output[0], True
        elif reader.op_type in ("Conv", "Gemm") and reader.input[0] == name:
            return Chain(node, reader, name)
        else:
            return None
    return None


def _is_conv(node: NodeProto, stored: set[str]) -> bool:
    return node.op_type == "Conv" and all(name in stored for name in node.input[1:])


def _is_weighted(node: NodeProto, stored: set[str]) -> bool:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = node.op_type == "Conv" or not attributes.get("transA", 0)
    return plain and all(name in stored for name in node.input[1:])


def _peaks(
    model: ModelProto, names: list[str], pixels: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Maximum magnitude of each channel of some values, over all pictures and positions."""
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in set(names))
    session = onnx_file.open_session(probe.SerializeToString())
    found: dict[str, Floats] = {}
    for start in range(0, len(pixels), 32):
        batch = np.ascontiguousarray(pixels[start : start + 32])
        for name, value in zip(
            names, session.run(names, {onnx_file.INPUT_NAME: batch}), strict=True
        ):
            size = np.abs(value).max(axis=tuple(n for n in range(value.ndim) if n != 1))
            found[name] = np.maximum(found.get(name, size), size)
    return found


def _rescale(chain: Chain, weights: dict[str, Floats], peaks: dict[str, Floats]) -> None:
    first, second = weights[chain.first.input[1]], weights[chain.second.input[1]]
    columns = _columns(chain.second, second, len(first))
    if columns is None or len(peaks[chain.between]) != len(first):
        return
    reads = np.abs(columns).max(axis=0)
    if _is_depthwise(chain.second, second, len(first)):
        reads = np.ones_like(reads)  # One scale per filter, so any factor suits it.
    factor = np.sqrt(_share(peaks[chain.between]) / _share(reads))
    factor = np.where(np.isfinite(factor) & (factor > 0), factor, 1).clip(
        1 / _MAX_FACTOR, _MAX_FACTOR
    )
    factor = factor.astype(np.float32)
    weights[chain.first.input[1]] = first / factor.reshape(-1, *[1] * (first.ndim - 1))
    if len(chain.first.input) > 2:
        weights[chain.first.input[2]] = weights[chain.first.input[2]] / factor
    weights[chain.second.input[1]] = _scaled(chain.second, second, factor)
    peaks[chain.between] = peaks[chain.between] / factor


def _share(sizes: Floats) -> Floats:
    result: Floats = sizes / max(float(sizes.max(initial=0)), 1e-30)
    return result


def _columns(node: NodeProto, weight: Floats, channels: int) -> Floats | None:
    """(rows, channels): share of its row's range per input channel; None: shapes do not match."""
    if _is_depthwise(node, weight, channels):
        return np.ones((1, channels), np.float32)
    rows = _as_rows(node, weight)
    if rows.shape[1] != channels:
        return None
    size: Floats = np.abs(rows).reshape(*rows.shape[:2], -1).max(2)
    shares: Floats = size / np.maximum(size.max(1, keepdims=True), 1e-30)
    return shares


def _as_rows(node: NodeProto, weight: Floats) -> Floats:
    return weight.T if node.op_type == "Gemm" and not _is_turned(node) else weight


def _is_turned(node: NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def _is_depthwise(node: NodeProto, weight: Floats, channels: int) -> bool:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "Conv" and groups == channels == len(weight) and weight.shape[1] == 1


def _scaled(node: NodeProto, weight: Floats, factor: Floats) -> Floats:
    if _is_depthwise(node, weight, len(factor)):
        return weight * factor.reshape(-1, 1, 1, 1)
    if node.op_type == "Conv":
        return weight * factor.reshape(1, -1, *[1] * (weight.ndim - 2))
    return weight * (factor if _is_turned(node) else factor[:, None])
