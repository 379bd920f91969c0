from __future__ import annotations

import pytest

from lepton_automl.models.layers.sepconv import SepConv
from tests.helpers.oracle import ACTIVATIONS, close, trace


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "hswish"])
def test_a_sepconv_filters_each_channel_then_mixes_them(kernel, stride, activation):
    act = ACTIVATIONS[activation]
    run = trace(SepConv(out=8, kernel=kernel, stride=stride, activation=activation))
    y = act(run.conv("depthwise", run.x, stride=stride, depthwise=True))
    assert close(run.y, act(run.conv("pointwise", y)))


def test_the_filters_belong_to_the_width_before_them():
    graph = trace(SepConv(out=8)).arch.graph
    assert [(w.size, w.fields) for w in graph.widths] == [(8, ((0, "out"),))]
