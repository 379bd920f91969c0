"""Static integers: uint8 values, int8 weights with a scale an output channel, int32 biases."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.compress.least_squares import MOST_TAPS, Moments, count, patches, taps
from lepton_automl.compress.quantization.calibration import Calibration, arithmetic, stored
from lepton_automl.models.graph import Conv, Graph, Linear
from lepton_automl.models.model import Model, QParams
from lepton_automl.models.network import ValueHook, extract_weights

BIAS_STEPS = 2**20
"""A channel without weights gets a scale that writes its bias in at least as many steps."""
BIAS_LIMIT = 2**29
"""Biases stay within this, so that bias plus products fit into 32 bits."""

CLIPS = np.arange(100, 79, -1, dtype=np.float32) / np.float32(100)
"""Shares of the largest weight tried as the end of the int8 range."""


def quantize(
    model: Model,
    calibration: Calibration,
    weight_limit: int,
    *,
    clip: bool = True,
    correct: bool = True,
) -> Model:
    """`model` with the integers that its int8 file holds.

    Parameters
    ----------
    model : Model
        Folded.
    calibration : Calibration
        Of this very model.
    weight_limit : int
        Weights lie in +-`weight_limit`, 1 to 127.
    clip : bool
        End each channel's range where the squared error of its weights is least, instead of at
        its largest weight.
    correct : bool
        Take the mean error that rounded weights cause on the calibration pictures out of the
        biases (Nagel et al. 2019, section 4.2, arXiv:1906.04721).
    """
    graph = model.arch.graph
    scales, zero_points = arithmetic(graph, model.preprocessing, calibration)
    weights, weight_scales, biases = {}, {}, {}
    for op in graph.weighted_ops:
        weight = model.weights[f"{op.name}.weight"].numpy()
        bias = model.weights[f"{op.name}.bias"].numpy()
        x_scale = np.float32(scales[op.x.name])
        scale = _weight_scales(weight, weight_limit, clip)
        scale = np.maximum(scale, np.abs(bias) / (x_scale * np.float32(BIAS_LIMIT)))
        empty = ~weight.reshape(len(weight), -1).any(1)
        scale[empty] = _empty_scales(bias[empty], x_scale)
        integers = _rounded_weights(weight, scale, weight_limit)
        if correct:
            bias = bias + _mean_error(op, weight - integers * _column(scale, weight), calibration)
        weights[op.name], weight_scales[op.name] = integers.astype(np.int8), scale
        biases[op.name] = np.rint(bias / (x_scale * scale).astype(np.float64)).astype(np.int32)
    qparams = QParams(scales, zero_points, weights, weight_scales, biases)
    return dataclasses.replace(model, qparams=qparams, parent=model.digest)


def _weight_scales(weight: np.ndarray, limit: int, clip: bool) -> np.ndarray:
    """float32 (out,): the step of each output channel's weights."""
    rows = weight.reshape(len(weight), -1)
    widest: np.ndarray = (np.abs(rows).max(1) / np.float32(limit)).astype(np.float32)
    if not clip:
        return widest
    best, least = widest, np.full(len(rows), np.inf)
    for share in CLIPS:
        scale = np.maximum(widest * share, np.finfo(np.float32).tiny)
        error = ((rows - _rounded_weights(rows, scale, limit) * scale[:, None]) ** 2).sum(1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def _empty_scales(bias: np.ndarray, x_scale: np.float32) -> np.ndarray:
    """Scales for channels whose weights are all zero: only the bias is to be met."""
    wanted = np.abs(bias) / (x_scale * np.float32(BIAS_STEPS))
    return np.where(bias == 0, np.float32(1), wanted).astype(np.float32)


def _rounded_weights(weight: np.ndarray, scale: np.ndarray, limit: int) -> np.ndarray:
    steps: np.ndarray = np.rint(weight / _column(scale, weight))
    return steps.clip(-limit, limit)


def _column(scale: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _mean_error(op: Conv | Linear, error: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Mean over pictures and positions of what weights `error` would give, (out,).

    A convolution is linear, so that of the mean picture is the mean over all pictures.
    """
    mean, weight = calibration.means[op.x.name][None], torch.from_numpy(error).float()
    if isinstance(op, Linear):
        return F.linear(mean.flatten(1), weight)[0].numpy()
    groups = op.x.channels if op.depthwise else 1
    y: Tensor = F.conv2d(mean, weight, None, op.stride, op.kernel // 2, 1, groups)
    result: np.ndarray = y.mean((0, 2, 3)).numpy()
    return result


def reconstruct(model: Model, pixels: Tensor, weight_limit: int) -> Model:
    """A quantized model with integers and biases that answer more like its float weights.

    Parameters
    ----------
    model : Model
        Folded and quantized; its scales stay.
    pixels : Tensor
        uint8 (N, H, W, C), training pictures.
    weight_limit : int
        Weights lie in +-`weight_limit`, 1 to 127.
    """
    assert model.qparams is not None, "the caller has quantized it"
    graph, values = model.arch.graph, model.qparams
    whole, rounded = model.network(), model.network()
    x = model.preprocessing.apply(pixels[: count(graph)])
    wholes, roundeds = ({graph.input.name: x} for _ in range(2))
    walks = (whole.iter_ops(wholes), rounded.iter_ops(roundeds, as_stored(graph, values)))
    with torch.inference_mode():
        for op, _ in zip(*walks, strict=True):
            if not isinstance(op, (Conv, Linear)):
                continue
            if taps(op) <= MOST_TAPS:
                a, b = (patches(op, each[op.x.name]) for each in (wholes, roundeds))
                values = _with_layer(op, model, values, Moments.of(a, b), weight_limit)
            for part, meant in meaning(op, values).items():
                rounded.modules_by_op[op.name].get_parameter(part).copy_(meant)
    # Whoever trains on from here starts from these integers, not from what they were made of.
    return dataclasses.replace(
        model, weights=extract_weights(rounded), qparams=values, parent=model.digest
    )


def as_stored(graph: Graph, values: QParams) -> ValueHook:
    """Rounds every value as int8 arithmetic stores it; gradients pass but where it is clipped."""
    own = set(stored(graph))

    def on_value(name: str, value: Tensor) -> Tensor:
        if name not in own:
            return value
        scale, zero_point = values.scales[name], values.zero_points[name]
        return torch.fake_quantize_per_tensor_affine(value.float(), scale, zero_point, 0, 255)

    return on_value


def _with_layer(
    op: Conv | Linear, model: Model, values: QParams, seen: Moments, limit: int
) -> QParams:
    """`values` with this layer's integers and biases made anew."""
    weight, bias = (model.weights[f"{op.name}.{part}"].double() for part in ("weight", "bias"))
    groups, width = seen.zz.shape[:2]
    rows = weight.reshape(groups, -1, width)
    scale = torch.from_numpy(values.weight_scales[op.name]).double().reshape(groups, -1, 1)
    integers = _rounded(seen.solved(rows, rows), scale, seen.squares, limit)
    missed = rows * seen.x_mean - integers * scale * seen.z_mean
    step = values.scales[op.x.name] * scale.flatten()
    steps = ((bias + missed.sum(2).flatten()) / step).round().clamp(-BIAS_LIMIT, BIAS_LIMIT)
    new = integers.reshape(weight.shape).to(torch.int8).numpy()
    return dataclasses.replace(
        values,
        weights={**values.weights, op.name: new},
        biases={**values.biases, op.name: steps.to(torch.int32).numpy()},
    )


def _rounded(wanted: Tensor, scale: Tensor, squares: Tensor, limit: int) -> Tensor:
    """Integers (groups, out, taps), the taps that matter most first."""
    order = squares.diagonal(dim1=1, dim2=2).argsort(1, descending=True)[:, None]
    rows, across = wanted.gather(2, order.expand_as(wanted)), order.expand_as(squares)
    inverse = torch.linalg.inv(squares.gather(1, across.mT).gather(2, across))
    upper = torch.linalg.cholesky((inverse + inverse.mT) / 2, upper=True)
    integers = torch.zeros_like(rows)
    for tap in range(rows.shape[2]):
        here = slice(tap, tap + 1)
        integers[:, :, here] = (rows[:, :, here] / scale).round().clamp(-limit, limit)
        error = (rows[:, :, here] - integers[:, :, here] * scale) / upper[:, here, here]
        rows[:, :, tap + 1 :] -= error * upper[:, here, tap + 1 :]
    return torch.zeros_like(integers).scatter(2, order.expand_as(integers), integers)


def meaning(op: Conv | Linear, values: QParams) -> dict[str, Tensor]:
    """Weight and bias that the integers of a layer stand for."""
    scale = values.weight_scales[op.name]
    weight = values.weights[op.name] * scale.reshape(-1, *[1] * (len(op.weight_shape) - 1))
    bias = values.biases[op.name] * (np.float32(values.scales[op.x.name]) * scale)
    return {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias).float()}
