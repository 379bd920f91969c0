"""Static integers: uint8 values, int8 weights with a scale an output channel, int32 biases."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.compress.calibrate import Calibration
from lepton_automl.compress.ranges import arithmetic
from lepton_automl.compress.rounding import BIAS_LIMIT
from lepton_automl.graph import Conv, Linear
from lepton_automl.model import Model, QParams

BIAS_STEPS = 2**20
"""A channel without weights gets a scale that writes its bias in at least as many steps."""
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
        integers = _rounded(weight, scale, weight_limit)
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
        error = ((rows - _rounded(rows, scale, limit) * scale[:, None]) ** 2).sum(1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def _empty_scales(bias: np.ndarray, x_scale: np.float32) -> np.ndarray:
    """Scales for channels whose weights are all zero: only the bias is to be met."""
    wanted = np.abs(bias) / (x_scale * np.float32(BIAS_STEPS))
    return np.where(bias == 0, np.float32(1), wanted).astype(np.float32)


def _rounded(weight: np.ndarray, scale: np.ndarray, limit: int) -> np.ndarray:
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
