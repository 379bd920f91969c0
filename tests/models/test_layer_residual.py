from __future__ import annotations

import itertools

import pytest

from lepton_automl.models.layers.residual import Residual
from tests.helpers.oracle import ACTIVATIONS, close, trace


@pytest.mark.parametrize(
    ("stride", "out", "kernel"), list(itertools.product((1, 2), (6, 8), (3, 5)))
)
def test_a_residual_block_is_two_convolutions_beside_a_skip_connection(stride, out, kernel):
    run = trace(Residual(out=out, stride=stride, kernel=kernel))
    y = run.conv("second", run.conv("first", run.x, stride=stride).relu())
    projected = stride != 1 or out != run.x.shape[1]
    assert run.arch.layers[0].projection is projected
    skip = run.conv("shortcut", run.x, stride=stride) if projected else run.x
    assert close(run.y, (y + skip).relu())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_stands_after_the_sum(activation):
    act = ACTIVATIONS[activation]
    run = trace(Residual(out=6, activation=activation))
    y = run.conv("second", act(run.conv("first", run.x)))
    assert close(run.y, act(y + run.x))


def test_both_branches_share_the_output_width_and_the_inner_one_is_free():
    arch = trace(Residual(out=8)).arch
    assert arch.layers[0].hidden == 8
    axes = {width.fields: width.axes for width in arch.graph.widths}
    assert set(axes) == {((0, "out"),), ((0, "hidden"),)}


def test_a_cut_never_turns_a_projection_into_a_plain_skip_connection():
    arch = trace(Residual(out=8)).arch
    name = next(w.name for w in arch.graph.widths if w.fields == ((0, "out"),))
    cut = arch.with_widths({name: 6})
    assert cut.layers[0].out == 6
    assert cut.layers[0].projection
    assert [op.name for op in cut.graph.ops] == [op.name for op in arch.graph.ops]
