"""Many picture files are decoded into one file, block by block, and killed commands continue."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data import decode_pool, pixel_cache
from lepton_automl.data.decode_pool import Decoding, ReadOptions
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pixel_cache import cache_pictures
from lepton_automl.errors import DataError, MachineError
from tests.helpers.pictures import random_pictures, write_folder

COUNT, HOW = 20, Decoding(3, (6, 5))
ALONE = ReadOptions(1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A block is three pictures; so few pictures are many."""
    monkeypatch.setattr(decode_pool, "MANY", 8)
    monkeypatch.setattr(pixel_cache, "_POOL_BLOCK_BYTES", 3 * 6 * 5 * 3)


@pytest.fixture
def files(tmp_path):
    made = []
    for n, pixels in enumerate(random_pictures(COUNT, (9, 7, 3))):
        made.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).save(made[-1])
    return made


@pytest.fixture
def decoded(monkeypatch):
    """The files that this process decodes from now on."""
    found, function = [], decode.decode

    def counted(picture, *how, **more):
        if isinstance(picture, Path):
            found.append(picture.name)
        return function(picture, *how, **more)

    monkeypatch.setattr(decode, "decode", counted)
    return found


def alone(files, how=HOW):
    return np.stack(
        [decode.decode(path, how.channels, how.size, framing=how.framing) for path in files]
    )


def check_written(path, pixels):
    assert (np.load(path) == pixels).all()
    line = pixel_cache.digest_file(path).read_text()
    assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    assert not [each for each in path.parent.iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize("framing", [None, Framing("shortest", (6, 6), "bicubic")])
def test_processes_write_what_this_one_decodes(files, tmp_path, framing):
    large = tmp_path / "large.png"
    Image.new("RGB", (1000, 1000), (9, 8, 7)).save(large)  # above the share of a process
    told, how = [], Decoding(3, (6, 5), framing=framing)
    path, given = tmp_path / "cache" / "a.npy", [*files, large]
    cache_pictures(path, given, how, ReadOptions(2, 10 << 20, told.append))
    check_written(path, alone(given, how))


def test_a_killed_command_continues_with_the_other_blocks(files, tmp_path, decoded, monkeypatch):
    path, write_at = tmp_path / "cache" / "a.npy", pixel_cache._write_at
    calls = []

    def killed(handle, place, content):
        calls.append(place)
        if len(calls) == 4:  # the header and two blocks are there
            raise KeyboardInterrupt
        write_at(handle, place, content)

    monkeypatch.setattr(pixel_cache, "_write_at", killed)
    with pytest.raises(KeyboardInterrupt):
        cache_pictures(path, files, HOW, ALONE)
    assert not path.exists()
    monkeypatch.setattr(pixel_cache, "_write_at", write_at)
    decoded.clear()
    cache_pictures(path, files, HOW, ALONE)
    assert sorted(decoded) == sorted(f"{n}.png" for n in range(6, COUNT))
    check_written(path, alone(files))


@pytest.mark.parametrize("damage", ["pixels", "list", "size", "other blocks"])
def test_blocks_that_are_not_what_was_written_are_decoded_again(
    files, tmp_path, damage, monkeypatch
):
    path = tmp_path / "cache" / "a.npy"
    replace = Path.replace

    def killed(self, target):
        if self.suffix == ".partial":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache_pictures(path, files, HOW, ALONE)
    partial, blocks = path.with_name(".a.npy.partial"), path.with_name(".a.npy.blocks")
    whole, lines = bytearray(partial.read_bytes()), blocks.read_text()
    if damage == "pixels":
        whole[-1] ^= 1
        partial.write_bytes(whole)
    elif damage == "size":
        partial.write_bytes(whole[:-1])
    elif damage == "list":
        blocks.write_text(lines + "7 1\n99 5\nx\n" + lines[-4:])
    else:
        blocks.write_text(lines.replace("7 blocks", "8 blocks"))
    cache_pictures(path, files, HOW, ALONE)
    check_written(path, alone(files))


def test_a_file_that_is_missing_by_now_is_named(files, tmp_path):
    files[4].unlink()
    for reading in (ALONE, ReadOptions(2)):
        with pytest.raises(DataError, match=r"/4\.png"):
            cache_pictures(tmp_path / "cache" / "a.npy", files, HOW, reading)


def test_a_full_disk_is_noticed_before_a_picture_is_decoded(files, tmp_path, decoded, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MachineError, match="no space left"):
        cache_pictures(tmp_path / "cache" / "a.npy", files, HOW, ALONE)
    assert not decoded


def test_the_state_of_a_large_file_spares_its_digest_until_it_changes(files, tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_LARGE", 1)
    monkeypatch.setattr(pixel_cache, "_SETTLED_NS", 0)
    path, computed = tmp_path / "cache" / "a.npy", []
    has_digest = pixel_cache._has_digest
    monkeypatch.setattr(
        pixel_cache, "_has_digest", lambda path: (computed.append(path), has_digest(path))[1]
    )

    def again(reading=ALONE):
        monkeypatch.setattr(pixel_cache, "_checked", {})  # as another command
        computed.clear()
        cache_pictures(path, files, HOW, reading)
        return len(computed)

    cache_pictures(path, files, HOW, ALONE)
    assert again() == 0
    assert again(ReadOptions(1, is_forced=True)) == 1
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    assert again() == 1
    check_written(path, alone(files))


@pytest.mark.parametrize("framing", [None, Framing("shortest", (8, 8), "bicubic")])
def test_small_pictures_of_one_size_are_decoded_once_for_all_sizes(
    tmp_path, framing, decoded, monkeypatch
):
    data = write_folder(tmp_path / "data", {"a": 20, "b": 20}, shape=(12, 10, 3))
    dataset = dataclasses.replace(open_dataset(data, reading=ALONE), framing=framing)
    expected = {size: dataset.pixels("train", size) for size in ((6, 5), (8, 8), (12, 10))}
    decoded.clear()
    for size, pixels in expected.items():
        files = dataset.decoded_files("train", size, tmp_path / "cache")
        assert np.array_equal(np.load(files.pixels), pixels)
    assert len(decoded) == len(dataset.train)
