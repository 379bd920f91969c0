from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.npy import Npy
from lepton_automl.errors import DataError
from tests.helpers.pictures import random_pictures, write_npz

X = random_pictures(40, (5, 4, 3))
Y = np.arange(40) % 2


def example(folder):
    return write(folder / "arrays", x=X, y=Y)


def write(folder, **arrays):
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


def test_files_are_read_as_the_arrays_of_an_npz_file(tmp_path):
    arrays = {"train_images": X[:30], "train_labels": Y[:30], "test_images": X[30:]}
    arrays |= {"test_labels": Y[30:], "class_names": np.array(["no", "yes"])}
    folder = write(tmp_path / "arrays", **arrays)
    one = open_dataset(folder)
    assert one.class_names == ("no", "yes")
    assert one.fingerprint == open_dataset(write_npz(tmp_path / "a.npz", **arrays)).fingerprint


def test_a_file_of_objects_under_another_name_is_named(tmp_path):
    folder = write(tmp_path / "arrays", watch=np.array([{"X": X}], object))
    for data in (folder, f"{folder}/watch.npy"):
        with pytest.raises(DataError, match=r"it holds watch \(Python objects") as caught:
            Npy().read(data)
        assert "np.savez" in caught.value.fix


def test_one_of_the_files_names_them_all(tmp_path):
    folder = example(tmp_path)
    for name in ("x.npy", "y.npy"):
        np.testing.assert_array_equal(Npy().read(f"{folder}/{name}").pictures, X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "x without y"),
        ({"pixels_of_all": X, "y": Y}, "there is none; it holds"),
        ({"x": X, "y": np.array([{}] * 40, object)}, "Python objects"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        Npy().read(write(tmp_path / "arrays", **arrays))


def test_damaged_files_are_named(tmp_path):
    folder = example(tmp_path)
    (tmp_path / "arrays" / "x.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError, match=r"x\.npy is not a readable"):
        Npy().read(folder)


def test_a_folder_of_classes_with_an_array_beside_them_stays_one(tmp_path):
    write(tmp_path / "data", features=X)
    (tmp_path / "data" / "cat").mkdir()
    assert not Npy().accepts(str(tmp_path / "data"))
