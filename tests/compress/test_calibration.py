from __future__ import annotations

import numpy as np
import pytest
import torch

from lepton_automl.compress.quantization.calibration import (
    CLIP_SHARES,
    activation_qparams,
    calibrate,
    clip_ranges,
    quantized_values,
)
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.data.sampling import balanced
from lepton_automl.models.graph import ACTIVATIONS, Gate, Linear, MaxPool
from tests.helpers.nets import random_arch, random_model, random_pixels


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_streaming_sees_what_all_pictures_at_once_show(batch):
    model = fold_batchnorm(random_model(random_arch(5, activations=ACTIVATIONS), 5))
    pixels = random_pixels(model.arch, 30, 5)
    seen = {}
    with torch.no_grad():
        model.network()(model.preprocessing.apply(pixels), lambda n, v: seen.setdefault(n, v))
    found = calibrate(model, pixels, batch=batch)
    for name in quantized_values(model.arch.graph):
        value = seen[name]
        assert found.low[name] == pytest.approx(float(value.min()), rel=1e-4, abs=1e-5)
        assert found.high[name] == pytest.approx(float(value.max()), rel=1e-4, abs=1e-5)
        torch.testing.assert_close(found.peaks[name], value.abs().amax((0, 2, 3)))
        torch.testing.assert_close(found.means[name], value.mean(0), rtol=1e-3, atol=1e-5)


def test_only_values_with_a_scale_of_their_own_are_stored():
    graph = random_arch(0, layers=("conv", "max_pool")).graph
    others = {op.y.name for op in graph.ops if isinstance(op, (MaxPool, Linear))}
    assert set(quantized_values(graph)) == {op.y.name for op in graph.ops} - others


def test_pictures_come_from_all_classes_in_turn():
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    index = balanced(labels, 12, seed=3)
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.bincount(labels[index]).tolist() == [5, 5, 2]
    assert balanced(labels, 12, seed=3).tolist() == index.tolist()
    assert balanced(labels, 12, seed=4).tolist() != index.tolist()
    assert len(balanced(labels, 1000, seed=3)) == 100


def made(seed, count=48):
    model = fold_batchnorm(random_model(random_arch(seed, activations=ACTIVATIONS), seed))
    return model, random_pixels(model.arch, count, seed)


def values_of(model, pixels):
    """Every stored value, all pictures at once."""
    seen = {}
    with torch.no_grad():
        model.network()(model.preprocessing.apply(pixels), lambda n, v: seen.setdefault(n, v))
    return seen


def squared_error(value, scale, zero_point):
    """By torch's own rounding, of the value itself."""
    kept = torch.fake_quantize_per_tensor_affine(value.float(), scale, zero_point, 0, 255)
    return float(((kept - value).double() ** 2).sum())


@pytest.mark.parametrize("seed", range(8))
def test_no_other_share_of_the_extremes_errs_notably_less(seed):
    model, pixels = made(seed)
    graph, seen = model.arch.graph, values_of(model, pixels)
    whole = calibrate(model, pixels)
    found, pre = clip_ranges(model, whole, pixels), model.preprocessing
    qparams = activation_qparams(graph, pre, found)
    whole_range = activation_qparams(graph, pre, whole)
    gates = [op for op in graph.ops if isinstance(op, Gate)]
    gated, gate_names = {x.name for op in gates for x in op.inputs}, {op.y.name for op in gates}
    for name in set(quantized_values(graph)) - gated:
        scale, zero_point = (each[name] for each in qparams)
        if name in gate_names:
            assert (scale, zero_point) == (np.float32(1 / 255), 0)
            continue
        errors = []
        for share in CLIP_SHARES:
            wide, middle = (each[name] for each in whole_range)
            low, high = -middle * wide * share, (255 - middle) * wide * share
            step = (high - low) / 255
            errors.append(squared_error(seen[name], step, round(-low / step)))
        least = min(errors)
        assert squared_error(seen[name], scale, zero_point) <= 1.05 * least + 1e-9


def test_a_stray_value_does_not_make_all_others_coarse():
    model, pixels = made(3)
    whole = calibrate(model, pixels)
    name = quantized_values(model.arch.graph)[0]
    strayed = {**whole.high, name: 3 * whole.high[name]}
    found = clip_ranges(model, type(whole)(whole.low, strayed, whole.peaks, whole.means), pixels)
    assert found.high[name] < 1.1 * whole.high[name]


@pytest.mark.parametrize("batch", [5, 48])
def test_batches_do_not_matter(batch):
    model, pixels = made(1)
    whole = calibrate(model, pixels)
    assert (
        clip_ranges(model, whole, pixels, batch=batch).high
        == clip_ranges(model, whole, pixels).high
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_narrowed_net_is_still_one_of_integers(seed):
    model, pixels = made(seed)
    whole = calibrate(model, pixels)
    q = quantize(model, clip_ranges(model, whole, pixels), 64).qparams
    wide = quantize(model, whole, 64).qparams
    assert all(0 < q.scales[n] <= wide.scales[n] * (1 + 1e-6) for n in q.scales)
    assert all(0 <= q.zero_points[n] <= 255 for n in q.zero_points)
