from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from lepton_automl.sources.digits import Digits


def example(folder):
    return "digits"


def test_the_17_levels_fill_the_range_of_pixels():
    samples = Digits().read("digits")
    pixels, levels = samples.pictures[..., 0], load_digits().images
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.testing.assert_allclose(pixels / 255, levels / 16, atol=0.5 / 255)
    assert len(np.unique(pixels)) == 17


def test_nothing_but_its_name_is_digits():
    assert Digits().accepts("digits")
    assert not Digits().accepts("./digits")
