from __future__ import annotations

import pytest

from lepton_automl.arch import chain
from lepton_automl.layers.conv import Conv
from lepton_automl.layers.head import Head
from lepton_automl.layers.max_pool import MaxPool
from lepton_automl.layers.stem import Stem
from lepton_automl.space.file import Choice
from lepton_automl.space.shape import fit_to_input, input_size


@pytest.mark.parametrize(
    ("side", "strides"),
    [
        (64, [4, 2, 2]),
        (32, [4, 2, 1]),
        (16, [4, 1, 1]),
        (8, [2, 1, 1]),
        (7, [2, 1, 1]),
        (4, [1] * 3),
    ],
)
def test_strides_give_way_from_the_end_so_that_no_map_is_under_four(side, strides):
    layers = fit_to_input(
        (side, side, 1), [Stem(8, stride=4), Conv(8, stride=2), Conv(8, stride=2)]
    )
    assert [layer.stride for layer in layers] == strides
    ops = chain((side, side, 1), [*layers, Head()], 2).graph.ops
    assert all(op.y.height >= 4 for op in ops if op.y.height > 1)


def test_pictures_smaller_than_four_stay_as_they_are():
    layers = fit_to_input((2, 3, 1), [Stem(8, stride=2), Conv(8, stride=2)])
    assert [layer.stride for layer in layers] == [1, 1]


def test_the_short_side_decides():
    assert fit_to_input((8, 64, 1), [Stem(8), Conv(8, stride=2), Conv(8, stride=2)])[2].stride == 1


def test_a_pool_that_would_go_too_far_is_left_out():
    layers = fit_to_input((9, 9, 1), [Stem(8), MaxPool(), MaxPool(), Conv(8)])
    assert [type(layer) for layer in layers] == [Stem, MaxPool, Conv]


def test_the_largest_listed_size_bounds_native():
    knob = Choice(("native", 16, 32))
    assert input_size("native", knob, (128, 64)) == (32, 16)
    assert input_size(16, knob, (128, 64)) == (16, 8)
    assert input_size("native", knob, (31, 5)) == (31, 5)
    assert input_size("native", knob, None) == (32, 32)
