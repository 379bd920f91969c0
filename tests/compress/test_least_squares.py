from __future__ import annotations

import numpy as np
import pytest
import torch

from lepton_automl.compress.least_squares import RIDGE, Moments, extract_patches
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from tests.helpers.nets import random_model


@pytest.mark.parametrize("middle", [Conv(6, stride=2), SepConv(4)], ids=["dense", "depthwise"])
def test_patches_times_weights_are_the_convolution(middle):
    arch = chain((8, 8, 3), [Stem(4), middle, Head()], 5)
    model = fold_batchnorm(random_model(arch, 0))
    op = list(arch.graph.weighted_ops)[1]
    value = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = extract_patches(op, value)
    weight = model.weights[f"{op.name}.weight"]
    rows = weight.reshape(len(seen), -1, seen.shape[2])
    given = (seen @ rows.mT).transpose(0, 1).flatten(1)
    groups = op.x.channels if op.depthwise else 1
    wanted = torch.nn.functional.conv2d(
        value, weight, None, op.stride, op.kernel // 2, 1, groups
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        given.sort(0).values, wanted.flatten(0, 2).sort(0).values, rtol=1e-4, atol=1e-5
    )


def test_solved_weights_are_those_of_numpy_given_rows_that_hold_them():
    draws = np.random.default_rng(0)
    x, mix = draws.normal(2, 1, (2, 500, 6)), draws.normal(0, 1, (2, 6, 4))
    z = x @ mix + draws.normal(1, 0.1, (2, 500, 4))
    rows, near = draws.normal(0, 1, (2, 3, 6)), draws.normal(0, 1, (2, 3, 4))
    seen = Moments.of(*(torch.from_numpy(each).float() for each in (x, z)))
    given = seen.solve(*(torch.from_numpy(each) for each in (rows, near)))
    for group in range(2):
        a, b = z[group] - z[group].mean(0), (x[group] - x[group].mean(0)) @ rows[group].T
        # Weights are held by as many further rows, each of one weight alone.
        held = np.sqrt(RIDGE * np.square(a).sum(0).mean()) * np.eye(4)
        known = np.concatenate([b, held @ near[group].T])
        wanted = np.linalg.lstsq(np.concatenate([a, held]), known, rcond=None)[0]
        np.testing.assert_allclose(given[group], wanted.T, rtol=1e-4, atol=1e-5)
