"""What every source promises; a new one of ours adds its example here."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_automl import plugins
from lepton_automl.decode import decode
from lepton_automl.errors import DataError
from lepton_automl.sources import Samples, Source
from tests.pictures import random_pictures, write_folder, write_npz

EXAMPLES = {
    "digits": lambda folder: "digits",
    "image_folder": lambda folder: str(write_folder(folder / "photos", {"a": 4, "b": 4})),
    "npz": lambda folder: write_npz(
        folder / "arrays.npz", x=random_pictures(8), y=np.arange(8) % 2
    ),
}


def test_every_source_has_an_example():
    assert sorted(EXAMPLES) == plugins.names("sources")


@pytest.fixture(params=sorted(EXAMPLES))
def name(request):
    return request.param


@pytest.fixture
def source(name):
    return plugins.load("sources", name, Source)()


@pytest.fixture
def data(name, tmp_path):
    return EXAMPLES[name](tmp_path)


def test_it_accepts_its_own_example_and_no_other(name, source, tmp_path):
    accepted = [other for other, make in EXAMPLES.items() if source.accepts(make(tmp_path))]
    assert accepted == [name]


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
    for picture in source.read(data).pictures[:20]:
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
        {"pictures": np.zeros((2, 4, 4, 4), np.uint8)},
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
