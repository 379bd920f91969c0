from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.core import untrusted_files
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


def unwanted() -> list[np.ndarray]:
    raise AssertionError("it is there already")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A file of the cache with its content, as a new process finds it."""
    path, rows = tmp_path / "a.npy", np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    pixel_cache.cache_array(path, rows.shape, BYTES, lambda: [rows])
    monkeypatch.setattr(pixel_cache, "_checked", {})
    return path, rows


def test_an_intact_file_is_kept(cached):
    path, rows = cached
    state = pixel_cache.cache_array(path, rows.shape, BYTES, unwanted)
    assert (pixel_cache.map_array(path, state=state) == rows).all()


@pytest.mark.parametrize("has_checked", [False, True])
@pytest.mark.parametrize(
    "damage", [*range(0, 152, 19), "truncated", "longer", "zeroed", "empty", "digest", "no digest"]
)
def test_a_file_with_any_other_content_is_written_again(cached, damage, has_checked):
    path, rows = cached
    if has_checked:
        pixel_cache.cache_array(path, rows.shape, BYTES, unwanted)
    whole = path.read_bytes()
    listed = path.with_name("a.npy.sha256")
    match damage:
        case int():
            path.write_bytes(whole[:damage] + bytes([whole[damage] ^ 1]) + whole[damage + 1 :])
        case "digest":
            path.write_bytes(whole[:-1] + b"?")
            listed.write_text(listed.read_text().replace("a", "b"))
        case "no digest":
            path.write_bytes(whole[:-1] + b"?")
            listed.unlink()
        case _:
            contents = {"truncated": whole[:-2], "longer": whole + b"?", "empty": b""}
            path.write_bytes(contents.get(damage, whole[:128] + bytes(24)))
    pixel_cache.cache_array(path, rows.shape, BYTES, lambda: [rows])
    assert path.read_bytes() == whole
    assert listed.read_text() == f"{hashlib.sha256(whole).hexdigest()}  a.npy\n"


@pytest.mark.parametrize(
    "shape", ["(True, 3, 2)", "(4, 3.5)", "(-4, 3, 2)", "'4'", "(1 << 70,)", "(3", "(0,"]
)
def test_a_header_that_numpy_cannot_use_is_refused_though_the_digest_fits(cached, shape):
    path, rows = cached
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(24)
    path.write_bytes(content)
    listed = path.with_name("a.npy.sha256")
    listed.write_text(f"{hashlib.sha256(content).hexdigest()}  a.npy\n")
    with pytest.raises(DataError, match="has changed"):
        pixel_cache.map_array(path, state=pixel_cache.file_state(path))
    pixel_cache.cache_array(path, rows.shape, BYTES, lambda: [rows])
    assert (np.load(path) == rows).all()


def test_another_file_of_the_cache_in_its_place_is_written_again(cached):
    """Its digest fits its content, but both have the name of another file."""
    path, rows = cached
    other = path.with_name("b.npy")
    pixel_cache.cache_array(other, rows.shape, BYTES, lambda: [rows[::-1]])
    other.replace(path)
    other.with_name("b.npy.sha256").replace(path.with_name("a.npy.sha256"))
    pixel_cache.cache_array(path, rows.shape, BYTES, lambda: [rows])
    assert (np.load(path) == rows).all()


@pytest.mark.parametrize(("shape", "kind"), [((3, 4, 2), BYTES), ((4, 3, 2), np.dtype(np.int8))])
def test_a_file_of_another_shape_or_type_is_written_again(cached, shape, kind):
    path, rows = cached
    wanted = rows.reshape(shape).astype(kind)
    pixel_cache.cache_array(path, shape, kind, lambda: [wanted])
    found = np.load(path)
    assert (found.shape, found.dtype) == (shape, kind)


def test_the_digest_is_computed_once_while_the_file_stays_as_it_is(cached, monkeypatch):
    path, rows = cached
    state = pixel_cache.cache_array(path, rows.shape, BYTES, unwanted)
    counted = []
    monkeypatch.setattr(
        untrusted_files, "sha256", lambda path, *_, **__: counted.append(path) or "0"
    )
    assert pixel_cache.cache_array(path, rows.shape, BYTES, unwanted) == state
    monkeypatch.setattr(pixel_cache, "_checked", {})  # A worker knows the state alone.
    pixel_cache.map_array(path, state=state)
    assert counted == []


def test_a_worker_refuses_a_file_that_was_changed_after_it_was_checked(cached, monkeypatch):
    path, rows = cached
    state = pixel_cache.cache_array(path, rows.shape, BYTES, unwanted)
    monkeypatch.setattr(pixel_cache, "_checked", {})
    os.utime(path, ns=(1, 1))  # The same content in another state is fine.
    assert (pixel_cache.map_array(path, state=state) == rows).all()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for known in (state, ""):
        with pytest.raises(DataError, match=r"a\.npy, a copy of the data, has changed"):
            pixel_cache.map_array(path, state=known)
    path.unlink()
    with pytest.raises(DataError, match="has changed"):
        pixel_cache.map_array(path, state=state)


def test_where_the_pictures_are_gone_a_changed_file_is_refused(tmp_path, monkeypatch):
    picture, path = written(tmp_path, (8, 8)), tmp_path / "a.npy"
    make = lambda: pixel_cache.decode_blocks((picture,), 3, (8, 8))  # noqa: E731
    pixel_cache.cache_array(path, (1, 8, 8, 3), BYTES, make)
    picture.unlink()
    pixel_cache.cache_array(path, (1, 8, 8, 3), BYTES, make)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"a\.bmp"):
        pixel_cache.cache_array(path, (1, 8, 8, 3), BYTES, make)


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
