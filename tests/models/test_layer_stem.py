from __future__ import annotations

import pytest

from lepton_automl.errors import ArchError
from lepton_automl.models.layers.stem import Stem
from tests.helpers.oracle import close, trace


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_stem_is_a_convolution_of_the_pixels(stride):
    run = trace(Stem(out=8, kernel=5, stride=stride), channels=3)
    assert close(run.y, run.conv("conv", run.x, stride=stride).relu())


def test_the_pixels_are_no_width_that_can_be_cut():
    graph = trace(Stem(out=8), channels=3).arch.graph
    assert [width.size for width in graph.widths] == [8]


def test_a_stride_that_is_not_offered_is_refused():
    with pytest.raises(ArchError, match=r"stride = 3.*one of \(1, 2, 4\)"):
        Stem(stride=3)
