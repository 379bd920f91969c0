from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.artifact.lepton_device import table
from lepton_automl.data import signal_files
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.signal_files import read_windows
from lepton_automl.errors import DataError

VALUES = np.random.default_rng(0).normal(0, 3, (2, 20, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (VALUES[0], VALUES[:1]),
        (VALUES[0].T, VALUES[:1]),
        (VALUES, VALUES),
        (np.moveaxis(VALUES, 2, 1).astype(np.float64), VALUES),
    ],
    ids=["one", "channels first", "several", "several, channels first"],
)
def test_arrays(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array)
    found = read_windows(tmp_path / "a.npy", 20, 3)
    assert np.array_equal(found.values, expected)
    assert not found.starts


@pytest.mark.parametrize("head", ["", "x,y,z\n", "\n"])
def test_tables_with_and_without_a_head(tmp_path, head):
    rows = "".join(",".join(repr(float(v)) for v in row) + "\n" for row in VALUES[0])
    (tmp_path / "a.csv").write_text(head + rows)
    assert np.array_equal(read_windows(tmp_path / "a.csv", 20, 3).values, VALUES[:1])


@pytest.mark.parametrize("is_turned", [False, True])
def test_windows_of_a_longer_recording_start_half_a_window_apart(tmp_path, is_turned):
    long = np.random.default_rng(1).normal(0, 3, (55, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", long.T if is_turned else long)
    found = read_windows(tmp_path / "a.npy", 20, 3)
    assert found.starts == (0, 10, 20, 30)
    for start, window in zip(found.starts, found.values, strict=True):
        assert np.array_equal(window, long[start : start + 20])


@pytest.mark.parametrize("stride", [1, 7, 20, 40])
def test_windows_of_a_longer_recording_start_a_stated_stride_apart(tmp_path, stride):
    long = np.random.default_rng(1).normal(0, 3, (55, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", long)
    found = read_windows(tmp_path / "a.npy", 20, 3, stride=stride)
    assert found.starts == tuple(range(0, 36, stride))
    expected = [long[start : start + 20] for start in found.starts]
    assert np.array_equal(found.values, expected)


def test_windows_beyond_the_memory_for_them_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(signal_files, "_MOST_BYTES", 16 * 20 * 3 * 4)
    np.save(tmp_path / "a.npy", np.zeros((35, 3), np.float32))
    assert len(read_windows(tmp_path / "a.npy", 20, 3, stride=1).starts) == 16
    np.save(tmp_path / "a.npy", np.zeros((36, 3), np.float32))
    with pytest.raises(DataError, match="17 windows of 20 values"):
        read_windows(tmp_path / "a.npy", 20, 3, stride=1)


def test_channels_are_found_by_their_names(tmp_path):
    rows = "".join(f'{n},"walk, slow",{z},{x},{y}\n' for n, (x, y, z) in enumerate(VALUES[0]))
    (tmp_path / "a.csv").write_text("n,label,z,x,y\n" + rows)
    found = read_windows(tmp_path / "a.csv", 20, 3, ("x", "y", "z"))
    assert np.array_equal(found.values, VALUES[:1])
    with pytest.raises(DataError, match=r"has no column 'w', .* its columns are n, label, z, x, y"):
        read_windows(tmp_path / "a.csv", 20, 3, ("x", "y", "w"))
    (tmp_path / "a.csv").write_text("n,label,z,x,y\n" + rows + "20,run,1,two,3\n")
    with pytest.raises(DataError, match="row 21 of values"):
        read_windows(tmp_path / "a.csv", 20, 3, ("x", "y", "z"))


def test_columns_are_not_taken_by_their_order_for_others_that_are_named(tmp_path):
    rows = "".join(f"{z},{x},{y}\n" for x, y, z in VALUES[0])
    path = tmp_path / "a.csv"
    for head in ("Z,X,Y", "z,x,w", "x,x,y"):  # Swapped; another name; twice.
        path.write_text(f"{head}\n{rows}")
        with pytest.raises(DataError, match=r"has no column|two columns are named"):
            read_windows(path, 20, 3, ("x", "y", "z"))
        with pytest.raises(ValueError, match=r"columns '.', of which the net reads one"):
            table(path, ["x", "y", "z"])
    path.write_text(f"a,b,c\n{rows}")  # Nothing is known of these.
    expected = VALUES[:1, :, [2, 0, 1]]
    assert np.array_equal(read_windows(path, 20, 3, ("x", "y", "z")).values, expected)
    assert np.array_equal(table(path, ["x", "y", "z"]).astype(np.float32), expected[0])


def test_columns_of_one_name_are_read_in_their_order(tmp_path):
    """Found by its name, the first one would be read three times."""
    rows = "".join(f"{x},{y},{z}\n" for x, y, z in VALUES[0])
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.csv").write_text(f"acc,acc,acc\n{rows}{name[2]},0,0\n")
    assert open_dataset(str(tmp_path)).channel_names == ()
    path = tmp_path / "new.csv"
    path.write_text(f"acc,acc,acc\n{rows}")
    found = read_windows(path, 20, 3, ("acc", "acc", "acc")).values
    assert np.array_equal(found, VALUES[:1])
    assert np.array_equal(table(path, ["acc"] * 3).astype(np.float32), VALUES[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n" * 19, r"values \(19, 3\)"),
        ("1,2,3\n" * 19 + "1,2\n", "row 20 of values is '1,2'"),
        ("1,2,3\n" * 19 + "1,2,x\n", "row 20"),
        ("1,2,3\n" * 19 + "1,2,nan\n", "NaN"),
        ("", "holds no numbers"),
        ("x,y,z\n", "holds no numbers"),
        ("1," + "2" * 200_000 + "\n", "not a table of numbers"),
    ],
    ids=["short", "ragged", "text", "nan", "empty", "head only", "long cell"],
)
def test_other_tables_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_windows(tmp_path / "a.csv", 20, 3)


@pytest.mark.parametrize("array", [np.zeros((0, 20, 3)), np.zeros(60), np.array([["a"] * 3] * 20)])
def test_other_arrays_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=r"20 values in 3 channels|, not numbers"):
        read_windows(tmp_path / "a.npy", 20, 3)
