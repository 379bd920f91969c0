from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.cifar import Cifar
from lepton_automl.errors import DataError
from tests.helpers.pictures import random_pictures, write_npz

X = random_pictures(60, (32, 32, 3))
Y = (np.arange(60) % 10).astype(np.uint8)
NAMES = [f"kind {n}" for n in range(10)]


def records(x, *labels):
    """Labels, then the red, green and blue planes (https://www.cs.toronto.edu/~kriz/cifar.html)."""
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.concatenate([*(label[:, None] for label in labels), planes], 1).tobytes()


def example(folder):
    path = folder / "cifar-10-batches-bin"
    path.mkdir()
    (path / "data_batch_1.bin").write_bytes(records(X[:20], Y[:20]))
    (path / "data_batch_2.bin").write_bytes(records(X[20:40], Y[20:40]))
    (path / "test_batch.bin").write_bytes(records(X[40:], Y[40:]))
    (path / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    (path / "readme.html").write_text("<html>")
    return str(path)


def test_ten_classes_are_read_as_from_an_npz_file(tmp_path):
    arrays = {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}
    other = write_npz(tmp_path / "a.npz", **arrays, class_names=np.array(NAMES))
    dataset = open_dataset(example(tmp_path))
    assert dataset.class_names == tuple(NAMES)
    assert dataset.fingerprint == open_dataset(other).fingerprint


def test_of_a_hundred_classes_the_fine_labels_are_read(tmp_path):
    fine = np.arange(60, dtype=np.uint8)
    (tmp_path / "train.bin").write_bytes(records(X[:50], Y[:50], fine[:50]))
    (tmp_path / "test.bin").write_bytes(records(X[50:], Y[50:], fine[50:]))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"f{n}" for n in range(100)))
    samples = Cifar().read(str(tmp_path))
    assert [samples.class_names[n] for n in samples.labels] == [f"f{n}" for n in range(60)]
    np.testing.assert_array_equal(samples.pictures, X)
    assert samples.parts.tolist() == ["train"] * 50 + ["test"] * 10


@pytest.mark.parametrize("names", [["data_batch_1", "test_batch"], ["train", "test", "meta"]])
def test_pickled_batches_are_refused_with_the_way_out(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"\x80\x02}q")
    with pytest.raises(DataError, match="no pickle is read") as caught:
        open_dataset(tmp_path)
    assert "cifar-10-binary.tar.gz" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_1.bin", records(X[:20], Y[:20])[:-1], "61459 bytes; .* 3073 bytes"),
        ("data_batch_1.bin", b"", "0 bytes"),
        ("data_batch_2.bin", records(X[:2], Y[:2] + 9), "record 1 has the label 10"),
        ("batches.meta.txt", b"a\nb\n", "2 different names of classes, the rule is 10"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    folder = example(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Cifar().read(folder)
