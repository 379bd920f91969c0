from __future__ import annotations

import itertools

import pytest
import torch

from lepton_automl.models.layers.mbconv import MBConv
from tests.helpers.oracle import ACTIVATIONS, close, trace


def by_hand(run, layer: MBConv):
    act = ACTIVATIONS[layer.activation]
    y = act(run.conv("expand", run.x))
    y = act(run.conv("depthwise", y, stride=layer.stride, depthwise=True))
    if layer.se:
        gate = run.conv("squeeze", y.mean((2, 3), keepdim=True)).relu()
        y = y * torch.sigmoid(run.conv("excite", gate))
    return run.conv("project", y)


@pytest.mark.parametrize(("stride", "se", "out"), list(itertools.product((1, 2), (0, 4), (6, 8))))
def test_an_mbconv_expands_filters_excites_projects_and_adds_where_shapes_allow(stride, se, out):
    layer = MBConv(out=out, stride=stride, se=se, expand=3)
    run = trace(layer)
    y = by_hand(run, layer)
    added = stride == 1 and out == run.x.shape[1]
    assert run.arch.layers[0].residual is added
    assert close(run.y, y + run.x if added else y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_stands_after_expansion_and_filter_but_not_after_projection(activation):
    layer = MBConv(out=8, kernel=5, expand=2, activation=activation)
    run = trace(layer)
    assert close(run.y, by_hand(run, layer))


def test_input_channels_set_the_inner_widths():
    placed = MBConv(out=8, expand=6, se=4).with_input_channels(16)
    assert (placed.hidden, placed.squeeze) == (96, 24)
    assert MBConv(se=8, expand=1).with_input_channels(16).squeeze == 8
    assert MBConv(se=0).with_input_channels(16).squeeze == 0


def test_inner_output_and_squeezed_widths_are_cut_apart():
    graph = trace(MBConv(out=8, expand=2, se=4)).arch.graph
    assert sorted(f for w in graph.widths for f in w.fields) == [
        (0, "hidden"),
        (0, "out"),
        (0, "squeeze"),
    ]


def test_adding_to_the_input_ties_the_output_width_to_the_inputs():
    graph = trace(MBConv(out=6, expand=2)).arch.graph
    assert [w.fields for w in graph.widths] == [((0, "hidden"),)]
