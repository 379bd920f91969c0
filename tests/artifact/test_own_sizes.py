"""Test pictures in their own sizes: chosen, kept as they are, answered by formats of any size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lepton_automl.artifact import own_sizes
from lepton_automl.artifact.formatting import format_texts
from lepton_automl.artifact.own_sizes import OwnSizes
from lepton_automl.artifact.verify import Request, verify
from lepton_automl.data.opening import open_dataset
from tests.helpers import children
from tests.helpers.artifacts import make_bundle


@pytest.fixture
def folder(tmp_path):
    """Twelve PNGs of two classes in three parts, each of another size."""
    generator = np.random.default_rng(0)
    for number in range(12):
        part = ("train", "val", "test")[number % 3]
        path = tmp_path / "data" / part / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (10 + number, 30 - number, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def test_pictures_are_those_of_the_files_and_survive_writing(folder, tmp_path):
    dataset = open_dataset(folder)
    found = OwnSizes.read(OwnSizes.of(dataset, "test").write(tmp_path / "own.npz"))
    assert found.places.tolist() == [0, 1, 2, 3]
    for place, picture in zip(found.places, found.pictures, strict=True):
        with Image.open(folder / dataset.test.ids[place]) as image:
            assert np.array_equal(picture, np.asarray(image))


def test_there_are_fewer_where_pictures_are_large_but_always_one(folder, monkeypatch):
    dataset = open_dataset(folder)
    sizes = [picture.nbytes for picture in OwnSizes.of(dataset, "test").pictures]
    monkeypatch.setattr(own_sizes, "_MOST_BYTES", sum(sizes[:2]))
    assert len(OwnSizes.of(dataset, "test").pictures) == 2
    monkeypatch.setattr(own_sizes, "_MOST_BYTES", 1)
    assert OwnSizes.of(dataset, "test").places.tolist() == [0]


def test_a_request_names_them_in_a_child_process_too(tmp_path):
    made = make_bundle(tmp_path, formats=())
    request = dataclasses.replace(made.request, own_sizes=tmp_path / "own.npz")
    assert Request.from_json(request.to_json()) == request
    assert Request.from_json(made.request.to_json()) == made.request


def test_answers_to_them_are_compared_with_those_to_resized_pictures(tmp_path, monkeypatch):
    children.answer_formats_here(monkeypatch)
    made = make_bundle(tmp_path, formats=("any_size",))
    samples = np.load(made.request.pixels)
    twice = tuple(each.repeat(2, 0).repeat(2, 1) for each in samples[3:6])
    other = 255 - twice[2]
    pictures = (*twice[:2], np.ascontiguousarray(other))
    own = OwnSizes(np.array([3, 4, 5]), pictures).write(tmp_path / "own.npz")
    found = verify(dataclasses.replace(made.request, digests=made.digests, own_sizes=own))
    (figures,) = found.formats
    assert figures.n_own_size == 3
    assert figures.n_own_size_same_class is not None
    # The third picture is the negative of what the ONNX file answers.
    assert figures.own_size_difference > 0.01
    assert any("of 3 test pictures in their own sizes" in text for text in format_texts(figures))
    (without,) = verify(dataclasses.replace(made.request, digests=made.digests)).formats
    assert without.n_own_size is None
    assert not any("own sizes" in text for text in format_texts(without))
