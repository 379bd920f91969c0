from __future__ import annotations

import pytest
import torch

from lepton_automl.compress.fold import fold
from lepton_automl.graph import ACTIVATIONS
from tests.nets import random_arch, random_model, random_pixels


@pytest.mark.parametrize("seed", range(20))
def test_folding_changes_the_form_and_not_the_function(seed):
    model = random_model(random_arch(seed, activations=ACTIVATIONS), seed)
    x = model.preprocessing.apply(random_pixels(model.arch, 4, seed))
    folded = fold(model)
    with torch.no_grad():
        expected, given = model.network()(x), folded.network()(x)
    assert folded.is_folded
    assert not model.is_folded
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)


def test_folding_twice_is_folding_once():
    folded = fold(random_model(random_arch(1), 1))
    assert fold(folded) is folded
