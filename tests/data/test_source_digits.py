from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lepton_automl.data.sources.digits import Digits
from lepton_automl.errors import MachineError


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


def test_pictures_and_parts_are_scikit_learns():
    samples, digits = Digits().read("digits"), load_digits()
    assert np.array_equal(samples.labels, digits.target)
    assert np.array_equal(samples.pictures[..., 0], np.rint(digits.images * 255 / 16))
    _, test = train_test_split(np.arange(1797), test_size=0.2, random_state=42)
    assert set(np.flatnonzero(samples.parts == "test")) == set(test)


def test_a_scikit_learn_without_its_data_is_named(monkeypatch):
    monkeypatch.setattr("lepton_automl.data.sources.digits._FILE", "datasets/none.csv.gz")
    with pytest.raises(MachineError, match="none"):
        Digits().read("digits")
