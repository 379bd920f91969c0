"""Small files that claim to be huge end in an answer or in one message, and take little memory.

Others are in the tests of their formats: `.npz`, IDX, tar and zip files, PNG.
"""

from __future__ import annotations

import struct
import tracemalloc
import wave

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.signal_files import read_windows
from lepton_automl.errors import DataError
from tests.helpers.pictures import write_folder

MOST = 64 << 20
"""Bytes that may be allocated."""


@pytest.fixture(autouse=True)
def memory():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST


def header(shape):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(1099511627776, 2)", "(2, 1099511627776)", "(1, 1 << 40, 2)"])
def test_a_recording_that_claims_a_trillion_values_is_refused(tmp_path, shape):
    shape = shape.replace("1 << 40", str(1 << 40))
    for name in "ab":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "r.npy", np.ones((60, 2)))
    (tmp_path / "b" / "s.npy").write_bytes(header(shape))
    with pytest.raises(DataError, match="header claims"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="header claims"):
        read_windows(tmp_path / "b" / "s.npy", 60, 2)


def test_of_a_gif_of_ten_thousand_frames_the_first_is_used(tmp_path):
    frame = b",\0\0\0\0\x06\0\x06\0\0\x02\x08\x84\x8f\xa9\xcb\xed\x0f\x63\x2b\0"
    palette = bytes(range(12))
    gif = b"GIF89a\x06\0\x06\0\x81\0\0" + palette + frame * 10_000 + b";"
    write_folder(tmp_path, {"cat": 4, "dog": 4}, (6, 6, 3))
    (tmp_path / "cat" / "many.gif").write_bytes(gif)
    dataset = open_dataset(tmp_path)
    assert sum(map(len, dataset.parts)) == 9
    assert "animations" in {each.name for each in dataset.decisions}


def test_a_recording_of_sound_that_claims_one_sample_a_second_is_refused(tmp_path):
    """Brought to the rate of the others it would take 16,000 times its size."""
    for n, rate in enumerate((16_000, 16_000, 16_000, 16_000, 1)):
        path = tmp_path / "ab"[n % 2] / f"{n}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(bytes(40_000))
    with pytest.raises(DataError, match=r"4.wav has 20000 samples at 1 Hz"):
        open_dataset(tmp_path)


def test_a_table_with_one_endless_line_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("session,x,label\n" + "7" * (3 << 20) + ",1,a\n")
    with pytest.raises(DataError, match="line 2: it has 3145"):
        open_dataset(tmp_path / "a.csv")
