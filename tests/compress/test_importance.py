from __future__ import annotations

import dataclasses

import numpy as np
import torch

from lepton_automl.compress.pruning.importance import TEMPERATURE, source_values, taylor_importance
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.stem import Stem
from tests.helpers.nets import random_model, random_pixels


def setup():
    arch = chain((8, 8, 1), [Stem(12), Conv(16), Head()], 4)
    model = random_model(arch, 4)
    pixels = random_pixels(arch, 200, 4)
    return model, LabelledTensors(pixels, torch.arange(200) % 4)


def harm(model, data, op, channel):
    """The oracle: divergence of the softened answers when the channel really is silent."""
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    for part in ("weight", "bias"):
        weights[f"{op}.norm.{part}"][channel] = 0
    x = model.preprocessing.apply(data.pixels)
    silent = dataclasses.replace(model, weights=weights)
    with torch.no_grad():
        whole, less = (torch.log_softmax(m.network()(x) / TEMPERATURE, 1) for m in (model, silent))
    return float((whole.exp() * (whole - less)).sum(1).mean())


def ranks(values):
    return np.argsort(np.argsort(values))


def test_channels_are_ranked_as_silencing_them_ranks_them():
    model, data = setup()
    found = taylor_importance(model, data, seed=0)
    for width, op in (("0/out", "0/conv"), ("1/out", "1/conv")):
        given = found[width].numpy()
        true = np.array([harm(model, data, op, c) for c in range(len(given))])
        assert np.corrcoef(ranks(given), ranks(true))[0, 1] > 0.7


def test_a_silent_channel_does_not_matter():
    model, data = setup()
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    for part in ("weight", "bias"):
        weights[f"1/conv.norm.{part}"][5] = 0
    found = taylor_importance(dataclasses.replace(model, weights=weights), data, seed=0)
    assert found["1/out"][5] == 0
    assert (found["1/out"] > 0).sum() == 15


def test_importance_is_the_same_for_the_same_seed():
    model, data = setup()
    first, second = (taylor_importance(model, data, seed=3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_depthwise_filters_make_no_channels_of_their_own():
    graph = chain((16, 16, 3), [Stem(16), MBConv(16, se=4), Head()], 5).graph
    hidden = next(width for width in graph.widths if width.name == "1/hidden")
    assert source_values(graph, hidden) == ["1/expand", "1/excite"]
