from __future__ import annotations

import itertools

import pytest

from lepton_automl.models.layers.conv import Conv
from tests.helpers.oracle import ACTIVATIONS, close, trace


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((1, 3, 5, 7), (1, 2))))
def test_a_conv_is_convolution_normalisation_and_activation(kernel, stride):
    run = trace(Conv(out=8, kernel=kernel, stride=stride))
    assert close(run.y, run.conv("conv", run.x, stride=stride).relu())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_its_formula(activation):
    run = trace(Conv(out=8, activation=activation))
    assert close(run.y, ACTIVATIONS[activation](run.conv("conv", run.x)))


def test_its_only_width_is_its_output():
    graph = trace(Conv(out=8)).arch.graph
    assert [(w.size, w.fields) for w in graph.widths] == [(8, ((0, "out"),))]
