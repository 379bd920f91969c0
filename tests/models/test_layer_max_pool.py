from __future__ import annotations

import pytest
from torch.nn import functional as F

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from tests.helpers.oracle import close, trace


@pytest.mark.parametrize("stride", [1, 2])
def test_two_by_two_pools_without_padding(stride):
    run = trace(MaxPool(kernel=2, stride=stride))
    assert close(run.y, F.max_pool2d(run.x, 2, stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_three_by_three_pools_with_a_padding_that_never_wins(stride):
    run = trace(MaxPool(kernel=3, stride=stride))
    assert close(run.y, F.max_pool2d(run.x, 3, stride, padding=1))


def test_it_owns_neither_weights_nor_a_width():
    arch = trace(MaxPool()).arch
    assert arch.graph.widths == ()
    assert arch.graph.macs == 6 * 5


def test_a_map_too_small_to_pool_is_refused_with_its_size():
    with pytest.raises(ArchError, match="a 1x1 feature map is too small to pool by 2"):
        assert chain((1, 1, 3), [MaxPool(kernel=2), Head()], 2).graph
