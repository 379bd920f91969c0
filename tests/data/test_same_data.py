"""The same pictures, labels and parts are the same data set, in whatever form they come."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.opening import open_dataset
from tests.data import test_source_idx, test_source_parquet, test_source_tar_shards
from tests.data.test_source_zip import pack
from tests.helpers.pictures import random_pictures, write_npz

PARTS = ("train", "val", "test")
X = random_pictures(24, (9, 7, 3))
LABELS = np.tile(np.repeat([0, 1], 4), 3)
"""Of four pictures each: class 0, class 1; of train, val, test."""


def names():
    return [f"{PARTS[n // 8]}/{LABELS[n]}/{n % 4}" for n in range(len(X))]


def folder(place, suffix=".png"):
    for name, pixels in zip(names(), X, strict=True):
        path = place / "folder" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return place / "folder"


def manifest(place):
    rows = [f"{name}.png,{c},{name.split('/')[0]}" for name, c in zip(names(), LABELS, strict=True)]
    path = folder(place) / "list.csv"
    path.write_text("\n".join(["file,label,split", *rows[::-1]]))  # In any order.
    return path


def arrays():
    found = {"class_names": np.array(["0", "1"])}
    for n, part in enumerate(PARTS):
        rows = slice(8 * n, 8 * n + 8)
        found |= {f"x_{part}": X[rows], f"y_{part}": LABELS[rows]}
    return found


def npz(place):
    return write_npz(place / "x.npz", **arrays())


def npy(place):
    (place / "arrays").mkdir()
    for name, array in arrays().items():
        np.save(place / "arrays" / f"{name}.npy", array)
    return place / "arrays"


def zipped(place):
    path = pack(folder(place), place / "x.zip")
    shutil.rmtree(place / "folder")
    return path


def tar(place):
    for n, part in enumerate(PARTS):
        files = {}
        for name, pixels, label in list(zip(names(), X, LABELS, strict=True))[8 * n : 8 * n + 8]:
            key = name.replace("/", "-")
            files[f"{key}.png"] = test_source_tar_shards.png(pixels)
            files[f"{key}.cls"] = str(label).encode()
        test_source_tar_shards.write(place / "shards" / f"{part}-000.tar", files)
    return place / "shards"


def idx(place):
    """As MNIST, but with colour."""
    (place / "idx").mkdir()
    for n, part in enumerate(("train", "val", "t10k")):
        rows = slice(8 * n, 8 * n + 8)
        for kind, array in (("images-idx3", X), ("labels-idx1", LABELS.astype(np.uint8))):
            content = test_source_idx.packed(array[rows])
            (place / "idx" / f"{part}-{kind}-ubyte").write_bytes(content)
    return place / "idx"


class Part:
    """A map-style data set of one part, as torch's."""

    classes = ("0", "1")

    def __init__(self, number):
        self.rows = range(8 * number, 8 * number + 8)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return Image.fromarray(X[self.rows[place]]), int(LABELS[self.rows[place]])


def parts_from_python():
    return {part: Part(n) for n, part in enumerate(PARTS)}


def parquet(place):
    test_source_parquet.needs_pyarrow()
    (place / "hub" / "data").mkdir(parents=True)
    for n, part in enumerate(PARTS):
        rows = slice(8 * n, 8 * n + 8)
        path = place / "hub" / "data" / f"{part}-00000-of-00001.parquet"
        test_source_parquet.write(path, X[rows], LABELS[rows], ["0", "1"])
    return place / "hub"


FORMS = {
    "parquet": parquet,
    "tar": tar,
    "idx": idx,
    "torch Dataset": lambda _: "tests.data.test_same_data:parts_from_python",
    "manifest": manifest,
    "npz": npz,
    "npy": npy,
    "zip": zipped,
    "bmp": lambda place: folder(place, ".bmp"),
    "tiff": lambda place: folder(place, ".tif"),
    "ppm": lambda place: folder(place, ".ppm"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_fingerprint_is_that_of_the_folder(tmp_path, form):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one, other = open_dataset(folder(tmp_path / "one")), open_dataset(form(tmp_path / "other"))
    assert other.fingerprint == one.fingerprint
    for part in PARTS[::2]:
        np.testing.assert_array_equal(other.pixels(part, (9, 7)), one.pixels(part, (9, 7)))
        assert other.part_fingerprint(part) == one.part_fingerprint(part)
    assert other.preprocessing((9, 7)) == one.preprocessing((9, 7))  # It is written into files.


SIGNALS = np.random.default_rng(0).normal(size=(24, 40, 3)).astype(np.float32)
"""Windows of 40 values in three channels, with the labels and parts of the pictures."""
PERSONS = 10 * np.repeat(np.arange(3), 8) + np.tile([0, 0, 1, 2], 6)


class SignalPart(Part):
    """Windows of one part, and whose they are."""

    def __init__(self, number):
        super().__init__(number)
        self.groups = PERSONS[self.rows]

    def __getitem__(self, place):
        return SIGNALS[self.rows[place]], int(LABELS[self.rows[place]])


def signals_from_python():
    return {part: SignalPart(n) for n, part in enumerate(PARTS)}


def signal_npz(place):
    found = {"class_names": np.array(["0", "1"])}
    for n, part in enumerate(PARTS):
        rows = slice(8 * n, 8 * n + 8)
        found |= {f"x_{part}": SIGNALS[rows], f"y_{part}": LABELS[rows]}
        found[f"group_{part}"] = PERSONS[rows]
    return write_npz(place / "x.npz", **found)


def signal_manifest(place):
    rows = ["path,label,split,person"]
    for name, values, label, person in zip(names(), SIGNALS, LABELS, PERSONS, strict=True):
        path = place / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
        rows.append(f"{name}.npy,{label},{name.split('/')[0]},{person}")
    (place / "list.csv").write_text("\n".join(rows))
    return place / "list.csv"


@pytest.mark.parametrize(
    "form", [signal_manifest, lambda _: "tests.data.test_same_data:signals_from_python"]
)
def test_windows_of_sensors_are_one_data_set_as_arrays_files_and_from_python(tmp_path, form):
    one, other = open_dataset(signal_npz(tmp_path)), open_dataset(form(tmp_path))
    assert one.is_signal
    assert other.fingerprint == one.fingerprint
    for mine, its in zip(one.parts, other.parts, strict=True):
        np.testing.assert_array_equal(mine.signals, its.signals)
        np.testing.assert_array_equal(mine.groups, its.groups)
    assert other.preprocessing(one.size) == one.preprocessing(one.size)
    assert other.window_stride == one.window_stride  # It is written into files.
    PERSONS[0] += 3
    try:  # With another person it is another data set.
        assert open_dataset(signal_npz(tmp_path)).fingerprint != one.fingerprint
    finally:
        PERSONS[0] -= 3


def test_one_other_pixel_label_or_part_is_another_data_set(tmp_path):
    whole = arrays()
    known = {open_dataset(npz(tmp_path)).fingerprint}
    pixel = X[:8].copy()
    pixel[0, 0, 0, 0] ^= 1
    moved = {
        f"{k}_{p}": whole[f"{k}_{q}"] for k in "xy" for p, q in (("val", "test"), ("test", "val"))
    }
    for change in ({"x_train": pixel}, {"y_test": whole["y_test"][::-1]}, moved):
        data = write_npz(tmp_path / "y.npz", **(whole | change))
        known.add(open_dataset(data).fingerprint)
    assert len(known) == 4


def test_equal_bytes_of_another_shape_are_other_pictures(tmp_path):
    pixels = np.arange(48, dtype=np.uint8)
    for n, shape in enumerate([(4, 12), (6, 8), (8, 6), (12, 4), (3, 16), (16, 3)]):
        for name in "ab":
            path = tmp_path / name / f"{n}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.reshape(shape) + (name == "b")).save(path)
    digests = [digest for part in open_dataset(tmp_path).parts for digest in part.digests]
    assert len(set(digests)) == 12


def test_a_jpeg_is_known_by_its_file(tmp_path):
    """Its pixels depend on the version of the decoder."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for n in range(4):
            pixels = random_pictures(1, (16, 16, 3), seed=n + 9 * (name == "b"))[0]
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.jpg")
    before = open_dataset(tmp_path).fingerprint
    content = (tmp_path / "a" / "0.jpg").read_bytes()
    comment = b"\xff\xfe" + struct.pack(">H", 7) + b"hello"
    (tmp_path / "a" / "0.jpg").write_bytes(content[:2] + comment + content[2:])
    assert open_dataset(tmp_path).fingerprint != before
