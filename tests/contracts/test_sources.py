"""What every source promises; `example(folder)` in its own test says what it reads."""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import pytest

from lepton_automl.core import plugins
from lepton_automl.data.pictures.decode import decode
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError


def example(name, folder):
    """What a user would type for data of the source `name`, made in `folder`."""
    place = f"tests.data.test_source_{name}"
    test = importlib.import_module(place) if importlib.util.find_spec(place) else None
    if not hasattr(test, "example"):
        pytest.skip(f"tests/data/test_source_{name}.py has no example(folder)")
    return test.example(folder)


@pytest.fixture(params=plugins.names("sources"))
def name(request):
    return request.param


@pytest.fixture
def source(name):
    return plugins.load("sources", name, Source)()


@pytest.fixture
def data(name, tmp_path):
    return example(name, tmp_path)


def test_only_this_source_accepts_its_example(name, data):
    names = plugins.names("sources")
    assert [n for n in names if plugins.load("sources", n, Source)().accepts(data)] == [name]


def test_it_does_not_accept_what_does_not_exist(source):
    assert not source.accepts("no/such/place")


def test_reading_twice_gives_the_same(source, data):
    first, second = source.read(data), source.read(data)
    assert first.ids == second.ids
    assert first.class_names == second.class_names
    np.testing.assert_array_equal(first.labels, second.labels)
    for one, two in zip(first.pictures, second.pictures, strict=True):
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two


def test_ids_are_unique_and_every_class_has_a_picture(source, data):
    samples = source.read(data)
    assert len(set(samples.ids)) == len(samples) > 0
    assert set(samples.labels.tolist()) == set(range(len(samples.class_names)))
    assert samples.labels.dtype == np.int64


def test_every_picture_can_be_decoded(source, data):
    samples = source.read(data)
    if samples.sound is not None:
        assert samples.sound.dtype == np.int16
        return
    if samples.signals is not None:
        assert np.isfinite(samples.signals).all()
        return
    for picture in samples.pictures[:20]:
        assert decode(picture, 3, (6, 5)).shape == (6, 5, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 2])},
        {"labels": np.array([-1, 0])},
        {"labels": np.array([0])},
        {"ids": ("a",)},
        {"class_names": ("a", "a")},
        {"class_names": ("a", "b\n")},
        {"pictures": np.zeros((2, 4, 4, 1), np.float32)},
        {"pictures": np.zeros((2, 4, 4, 17), np.uint8)},
        {"parts": np.array(["train", "tset"])},
        {"groups": np.array([1])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_samples_that_do_not_fit_are_refused(change):
    fields = {
        "pictures": np.zeros((2, 4, 4, 1), np.uint8),
        "labels": np.array([0, 1]),
        "class_names": ("a", "b"),
        "ids": ("x", "y"),
    }
    assert len(Samples(**fields)) == 2
    with pytest.raises(DataError):
        Samples(**(fields | change))
