"""Round weights and biases to integers, to nearest or by GPTQ (Frantar et al. 2023)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.compress.least_squares import (
    MAX_FAN_IN,
    Moments,
    extract_patches,
    fan_in,
    picture_count,
)
from lepton_automl.compress.quantization.calibration import (
    Calibration,
    activation_qparams,
    quantized_values,
)
from lepton_automl.models.graph import Conv, Graph, Linear
from lepton_automl.models.model import Model
from lepton_automl.models.network import ValueHook, extract_weights
from lepton_automl.models.quantization import QParams

_MIN_BIAS_STEPS = 2**20
"""Resolution of the bias of a channel whose weights are all 0; the scale is chosen for it."""
BIAS_LIMIT = 2**29
"""Largest int32 bias, so that bias plus products fit into 32 bits."""

_CLIPS = np.arange(100, 79, -1, dtype=np.float32) / np.float32(100)
"""Shares of the largest weight that are tried as the end of the int8 range."""


def quantize(
    model: Model,
    calibration: Calibration,
    weight_limit: int,
    *,
    clip: bool = True,
    correct: bool = True,
    scale_of: Literal["channel", "layer"] = "channel",
) -> Model:
    """Choose scales and zero points, and round weights and biases to nearest.

    Parameters
    ----------
    model : Model
        Folded.
    calibration : Calibration
        Of the same model.
    weight_limit : int
        Weights lie in +-`weight_limit`, 1 to 127.
    clip : bool
        Clip each channel's weights where the squared error is least, instead of at the largest.
    correct : bool
        Bias correction: subtract the mean error that rounded weights cause on the calibration
        pictures (Nagel et al. 2019, section 4.2, arXiv:1906.04721).
    scale_of : str
        Whether weights have a scale an output channel, or all of a layer the same one.
    """
    graph = model.arch.graph
    scales, zero_points = activation_qparams(graph, model.preprocessing, calibration)
    weights, weight_scales, biases = {}, {}, {}
    for op in graph.weighted_ops:
        weight = model.weights[f"{op.name}.weight"].numpy()
        bias = model.weights[f"{op.name}.bias"].numpy()
        x_scale = np.float32(scales[op.x.name])
        scale = _weight_scales(weight, weight_limit, clip, scale_of)
        scale = np.maximum(scale, np.abs(bias) / (x_scale * np.float32(BIAS_LIMIT)))
        empty = ~weight.reshape(len(weight), -1).any(1)
        if scale_of == "layer":
            scale = np.full_like(scale, scale.max() if scale.any() else 1)
        else:
            scale[empty] = _empty_scales(bias[empty], x_scale)
        integers = _round_weights(weight, scale, weight_limit)
        if correct:
            bias = bias + _mean_error(
                op, weight - integers * _per_channel(scale, weight), calibration
            )
        weights[op.name], weight_scales[op.name] = integers.astype(np.int8), scale
        biases[op.name] = np.rint(bias / (x_scale * scale).astype(np.float64)).astype(np.int32)
    qparams = QParams(scales, zero_points, weights, weight_scales, biases)
    return dataclasses.replace(model, qparams=qparams, parent=model.digest)


def _weight_scales(
    weight: np.ndarray, limit: int, clip: bool, scale_of: Literal["channel", "layer"]
) -> np.ndarray:
    """float32 (out,): scale of each output channel's weights, or that of the layer repeated."""
    if scale_of == "layer":
        return np.repeat(_weight_scales(weight[None], limit, clip, "channel"), len(weight))
    rows = weight.reshape(len(weight), -1)
    unclipped: np.ndarray = (np.abs(rows).max(1) / np.float32(limit)).astype(np.float32)
    if not clip:
        return unclipped
    best, least = unclipped, np.full(len(rows), np.inf)
    for share in _CLIPS:
        scale = np.maximum(unclipped * share, np.finfo(np.float32).tiny)
        error = ((rows - _round_weights(rows, scale, limit) * scale[:, None]) ** 2).sum(1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def _empty_scales(bias: np.ndarray, x_scale: np.float32) -> np.ndarray:
    """Scales of channels whose weights are all 0, so that the bias is exact."""
    scales = np.abs(bias) / (x_scale * np.float32(_MIN_BIAS_STEPS))
    return np.where(bias == 0, np.float32(1), scales).astype(np.float32)


def _round_weights(weight: np.ndarray, scale: np.ndarray, limit: int) -> np.ndarray:
    steps: np.ndarray = np.rint(weight / _per_channel(scale, weight))
    return steps.clip(-limit, limit)


def _per_channel(scale: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _mean_error(op: Conv | Linear, error: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Mean output of the weights `error` over pictures and positions, (out,).

    A convolution is linear, so its output on the mean picture is the mean output.
    """
    mean, weight = calibration.means[op.x.name][None], torch.from_numpy(error).float()
    if isinstance(op, Linear):
        return F.linear(mean.flatten(1), weight)[0].numpy()
    groups = op.x.channels if op.depthwise else 1
    y: Tensor = F.conv2d(mean, weight, None, op.stride, op.padding, 1, groups)
    result: np.ndarray = y.mean((0, 2, 3)).numpy()
    return result


def round_by_gptq(model: Model, pixels: Tensor, weight_limit: int) -> Model:
    """Round weights and biases so that every layer reproduces the float model's values.

    Parameters
    ----------
    model : Model
        Folded and quantized; its scales are kept.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    weight_limit : int
        Weights lie in +-`weight_limit`, 1 to 127.
    """
    assert model.qparams is not None, "the caller has quantized it"
    graph, qparams = model.arch.graph, model.qparams
    float_net, int8_net = model.network(), model.network()
    x = model.preprocessing.apply(pixels[: picture_count(graph)])
    float_values, int8_values = ({graph.input.name: x} for _ in range(2))
    walks = (
        float_net.iter_ops(float_values),
        int8_net.iter_ops(int8_values, fake_quantize(graph, qparams)),
    )
    with torch.inference_mode():
        for op, _ in zip(*walks, strict=True):
            if not isinstance(op, (Conv, Linear)):
                continue
            if fan_in(op) <= MAX_FAN_IN:
                x = extract_patches(op, float_values[op.x.name])
                z = extract_patches(op, int8_values[op.x.name])
                qparams = _reconstruct_layer(op, model, qparams, Moments.of(x, z), weight_limit)
            for part, value in dequantize(op, qparams).items():
                int8_net.modules_by_op[op.name].get_parameter(part).copy_(value)
    # Quantization-aware fine-tuning must start from these integers.
    return dataclasses.replace(
        model, weights=extract_weights(int8_net), qparams=qparams, parent=model.digest
    )


def fake_quantize(graph: Graph, qparams: QParams) -> ValueHook:
    """A hook that rounds every value as int8 arithmetic does; gradients pass unless clipped."""
    names = set(quantized_values(graph))

    def on_value(name: str, value: Tensor) -> Tensor:
        if name not in names:
            return value
        scale, zero_point = qparams.scales[name], qparams.zero_points[name]
        return torch.fake_quantize_per_tensor_affine(value.float(), scale, zero_point, 0, 255)

    return on_value


def _reconstruct_layer(
    op: Conv | Linear, model: Model, qparams: QParams, moments: Moments, limit: int
) -> QParams:
    """`qparams` with new integers and biases of one layer."""
    weight, bias = (model.weights[f"{op.name}.{part}"].double() for part in ("weight", "bias"))
    groups, width = moments.zz.shape[:2]
    rows = weight.reshape(groups, -1, width)
    scale = torch.from_numpy(qparams.weight_scales[op.name]).double().reshape(groups, -1, 1)
    integers = gptq(moments.solve(rows, rows), scale, moments.regularized, limit)
    missing = rows * moments.x_mean - integers * scale * moments.z_mean
    step = qparams.scales[op.x.name] * scale.flatten()
    steps = ((bias + missing.sum(2).flatten()) / step).round().clamp(-BIAS_LIMIT, BIAS_LIMIT)
    new = integers.reshape(weight.shape).to(torch.int8).numpy()
    return dataclasses.replace(
        qparams,
        weights={**qparams.weights, op.name: new},
        biases={**qparams.biases, op.name: steps.to(torch.int32).numpy()},
    )


def gptq(weights: Tensor, scale: Tensor, hessian: Tensor, limit: int) -> Tensor:
    """Integers (groups, out, taps) of `weights`, rounded in decreasing order of the Hessian.

    Parameters
    ----------
    weights : Tensor
        float64 (groups, out, taps).
    scale : Tensor
        float64 (groups, out, 1).
    hessian : Tensor
        float64 (groups, taps, taps): second moments of the inputs, positive definite.
    limit : int
        Integers lie in +-`limit`.
    """
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)[:, None]
    rows, across = weights.gather(2, order.expand_as(weights)), order.expand_as(hessian)
    inverse = torch.linalg.inv(hessian.gather(1, across.mT).gather(2, across))
    upper = torch.linalg.cholesky((inverse + inverse.mT) / 2, upper=True)
    integers = torch.zeros_like(rows)
    for tap in range(rows.shape[2]):
        here = slice(tap, tap + 1)
        integers[:, :, here] = (rows[:, :, here] / scale).round().clamp(-limit, limit)
        error = (rows[:, :, here] - integers[:, :, here] * scale) / upper[:, here, here]
        rows[:, :, tap + 1 :] -= error * upper[:, here, tap + 1 :]
    return torch.zeros_like(integers).scatter(2, order.expand_as(integers), integers)


def dequantize(op: Conv | Linear, qparams: QParams) -> dict[str, Tensor]:
    """Float `weight` and `bias` that the integers of a layer stand for."""
    scale = qparams.weight_scales[op.name]
    weight = qparams.weights[op.name] * scale.reshape(-1, *[1] * (len(op.weight_shape) - 1))
    bias = qparams.biases[op.name] * (np.float32(qparams.scales[op.x.name]) * scale)
    return {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias).float()}
