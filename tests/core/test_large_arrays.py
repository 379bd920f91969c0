"""Large arrays lie in deleted files: they are equal to others and take no anonymous memory."""

import os

import numpy as np
import pytest

from lepton_automl.core import large_arrays
from lepton_automl.errors import MachineError
from tests.helpers.memory import kept_bytes

SIZE = 36 << 20
"""More than malloc keeps of what is freed: 32 MiB."""


@pytest.fixture
def values(tmp_path):
    """Mapped bytes (N, 1024), no two rows alike."""
    path = tmp_path / "values"
    rows = np.random.default_rng(0).integers(0, 256, (SIZE >> 10, 1024), np.uint8)
    path.write_bytes(rows.tobytes())
    return np.memmap(path, np.uint8, "r", shape=rows.shape)


ACTIONS = {
    "take": lambda v: large_arrays.take(v, np.random.default_rng(1).permutation(len(v))),
    "join": lambda v: large_arrays.join([v[: len(v) // 2], v[len(v) // 2 :]]),
    "convert": lambda v: large_arrays.convert(v, np.uint8, lambda block: 255 - block),
}
EXPECTED = {
    "take": lambda v: v[np.random.default_rng(1).permutation(len(v))],
    "join": lambda v: v,
    "convert": lambda v: 255 - v,
}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_large_array_is_what_numpy_makes_and_takes_no_anonymous_memory(name, values, monkeypatch):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", SIZE - 1)
    monkeypatch.setattr(large_arrays, "_BLOCK", 1 << 20)
    made = ACTIONS[name](values)
    assert isinstance(made, np.memmap)
    assert (made == EXPECTED[name](values)).all()
    del made
    assert kept_bytes(lambda: ACTIONS[name](values)) < SIZE // 4
    monkeypatch.setattr(large_arrays, "IN_MEMORY", SIZE)  # The measurement notices the fault.
    assert kept_bytes(lambda: ACTIONS[name](values)) > SIZE // 2


def test_no_file_is_left_and_the_folder_is_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = [large_arrays.empty((3, 5), np.float32), large_arrays.empty((2,), np.uint8, tmp_path)]
    for array in made:
        array[:] = 7
    assert [array.tolist() for array in made] == [[[7.0] * 5] * 3, [7, 7]]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(large_arrays, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MachineError, match="no space left"):
        large_arrays.empty((4,), np.uint8, tmp_path)


def test_an_array_without_elements_needs_no_file(monkeypatch):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 0)
    assert large_arrays.take(np.zeros((4, 2)), np.zeros(0, np.int64)).shape == (0, 2)
