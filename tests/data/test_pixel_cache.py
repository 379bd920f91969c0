from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data import pixel_cache
from lepton_automl.errors import DataError, MachineError

BYTES = np.dtype(np.uint8)

MANY = """
import resource, sys
from pathlib import Path
import numpy as np
from lepton_automl.data import pixel_cache

picture, out = Path(sys.argv[1]), Path(sys.argv[2])
pictures, size = (picture,) * 4000, (160, 160)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shape = (len(pictures), *size, 3)
make = lambda: pixel_cache.decode_blocks(pictures, 3, size)
pixel_cache.cache_array(out, shape, np.dtype(np.uint8), make)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def written(folder: Path, size: tuple[int, int] = (160, 160)) -> Path:
    path = folder / "a.bmp"
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_part_larger_than_the_memory_it_takes_is_decoded(tmp_path):
    picture, out = written(tmp_path), tmp_path / "many.npy"
    command = [sys.executable, "-c", MANY, str(picture), str(out)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert out.stat().st_size > 300e6
    assert grown < 3 * pixel_cache._BLOCK_BYTES
    mapped, wanted = np.load(out, mmap_mode="r"), np.asarray(Image.open(picture))
    for place in (0, 436, 437, 3999):  # A block holds 436.
        assert (mapped[place] == wanted).all()


def test_blocks_come_in_order_and_the_file_is_what_numpy_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_BLOCK_BYTES", 100)
    pictures = tuple(np.full((4, 4), number, np.uint8) for number in range(13))
    made = list(pixel_cache.decode_blocks(pictures, 1, (4, 4)))
    assert [len(block) for block in made] == [6, 6, 1]
    pixel_cache.cache_array(tmp_path / "a.npy", (13, 4, 4, 1), BYTES, lambda: made)
    np.save(tmp_path / "b.npy", np.concatenate(made))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_valid_file_is_kept_and_a_damaged_one_written_again(tmp_path):
    def unwanted() -> list[np.ndarray]:
        raise AssertionError("it is there already")

    path, ones = tmp_path / "a.npy", np.ones((3, 2), np.uint8)
    pixel_cache.cache_array(path, ones.shape, BYTES, lambda: [ones])
    pixel_cache.cache_array(path, ones.shape, BYTES, unwanted)
    path.write_bytes(path.read_bytes()[:-2])
    pixel_cache.cache_array(path, ones.shape, BYTES, lambda: [ones])
    assert (np.load(path) == 1).all()


def test_pictures_that_went_bad_leave_nothing_behind(tmp_path):
    picture = written(tmp_path, (8, 8))
    pictures = (picture, tmp_path / "gone.png")
    with pytest.raises(DataError, match="gone"):
        pixel_cache.cache_array(
            tmp_path / "out" / "a.npy",
            (2, 8, 8, 3),
            BYTES,
            lambda: pixel_cache.decode_blocks(pictures, 3, (8, 8)),
        )
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(MachineError):
        pixel_cache.cache_array(Path("/proc/a.npy"), (1,), BYTES, lambda: [np.ones(1, np.uint8)])
