from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.idx import Idx
from lepton_automl.errors import DataError
from tests.helpers.pictures import random_pictures, write_npz

X = random_pictures(40, (5, 4))
Y = (np.arange(40) % 2).astype(np.uint8)


def packed(array, kind=8):
    """The format of http://yann.lecun.com/exdb/mnist."""
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.tobytes()


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        kind = "images-idx3" if array.ndim == 3 else "labels-idx1"
        path = folder / f"{name.rstrip('_').replace('_', '-')}-{kind}-ubyte"
        path.write_bytes(packed(array))
    return str(folder)


def example(folder):
    return write(folder / "MNIST", train=X[:30], train_=Y[:30], t10k=X[30:], t10k_=Y[30:])


@pytest.mark.parametrize("layout", ["plain", "gzip", "raw", "emnist"])
def test_the_layouts_of_mnist_give_the_same_as_an_npz_file(tmp_path, layout):
    folder = tmp_path / "data"
    if layout == "emnist":
        write(folder, emnist_d_train=X[:30], emnist_d_train_=Y[:30])
        write(folder, emnist_d_test=X[30:], emnist_d_test_=Y[30:])
    else:
        inner = folder / "raw" if layout == "raw" else folder
        write(inner, train=X[:30], train_=Y[:30], t10k=X[30:], t10k_=Y[30:])
    if layout == "gzip":
        for path in list(folder.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
    other = write_npz(
        tmp_path / "a.npz", x_train=X[:30], y_train=Y[:30], x_test=X[30:], y_test=Y[30:]
    )
    assert open_dataset(folder).fingerprint == open_dataset(other).fingerprint


def test_one_pair_without_a_part_is_undivided(tmp_path):
    write(tmp_path, letters=X, letters_=Y)
    assert set(Idx().read(str(tmp_path)).parts) == {""}


def test_a_file_stands_for_its_folder(tmp_path):
    folder = example(tmp_path)
    assert len(Idx().read(f"{folder}/train-images-idx3-ubyte")) == 40


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", "magic number"),
        (IMAGES, b"\0\0\x07\x03", "magic number"),
        (IMAGES, packed(X[:30])[:9], "header ends early"),
        (IMAGES, packed(X[:30])[:-1], "599 are there"),
        (IMAGES, packed(X[:30]) + b"\0", "601 are there"),
        (IMAGES, packed(Y), "1 dimensions, 3 or 4"),
        (IMAGES, struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "at most"),
        (IMAGES, gzip.compress(packed(X[:30])[:-1], mtime=0), "ends after 599 of 600"),
        (IMAGES, gzip.compress(packed(X[:30]), mtime=0)[:-9], "not a readable"),
        (IMAGES, gzip.compress(packed(X[:30]) + b"\0", mtime=0), "more are there"),
        (
            IMAGES,
            gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**20, 32, 32), mtime=0),
            "packed size",
        ),
        ("train-labels-idx1-ubyte", packed(X[:30]), "3 dimensions, 1"),
        ("train-labels-idx1-ubyte", packed(Y[:29]), "30 samples but .* 29 labels"),
        ("other-images-idx3-ubyte", packed(X[:30]), "do not say which part"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    folder = example(tmp_path)
    (tmp_path / "MNIST" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Idx().read(folder)


def test_values_of_two_bytes_are_read_in_their_order(tmp_path):
    folder = example(tmp_path)
    wide = (X[:30].astype(">i2") * 100).astype(">i2")
    (tmp_path / "MNIST" / IMAGES).write_bytes(packed(wide, kind=11))
    raw = Idx().read_raw(folder)
    assert raw.arrays[0].values.max() == int(X[:30].astype(int).max()) * 100
