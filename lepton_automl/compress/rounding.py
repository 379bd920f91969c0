"""Rounding learned by reconstruction: each layer's integers give what the float layer gave.

Rounding to the nearest integer is best for every weight alone, not for their sum. Layer after
layer, from what the rounded layers before it really give, the weights are first solved anew by
least squares for the float net's values, then rounded one by one, each error made good by the
weights still to come (Frantar et al. 2023, section 3, arXiv:2210.17323; the aim is that of Nagel
et al. 2020, arXiv:2004.10568). No label, no gradient; the file costs what it did before.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from lepton_automl.compress.calibrate import stored
from lepton_automl.compress.moments import MOST_TAPS, Moments, count, patches, taps
from lepton_automl.graph import Conv, Graph, Linear
from lepton_automl.model import Model, QParams
from lepton_automl.network import ValueHook, extract_weights

BIAS_LIMIT = 2**29
"""Biases stay within this, so that bias plus products fit into 32 bits."""


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
