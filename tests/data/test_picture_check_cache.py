"""Picture files that are known are not read again, and give the same data set."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data import decode_pool, picture_check, picture_check_cache
from lepton_automl.data.decode_pool import ReadOptions
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.splits import near_duplicates
from tests.helpers.pictures import random_pictures, write_npz

COUNT = 24


@pytest.fixture(autouse=True)
def _many(monkeypatch):
    """So few pictures are many, changes of a moment ago are old, and one process reads."""
    monkeypatch.setattr(decode_pool, "MANY", 4)
    monkeypatch.setattr(picture_check_cache, "_SETTLED_NS", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})


@pytest.fixture
def folder(tmp_path):
    for n, pixels in enumerate(random_pictures(COUNT, (40, 40, 3))):
        place = tmp_path / "data" / "ab"[n % 2] / f"{n:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return tmp_path / "data"


@pytest.fixture
def read(monkeypatch):
    """The files that are read from now on."""
    found, check_one = [], picture_check.check_one
    monkeypatch.setattr(
        picture_check, "check_one", lambda path: (found.append(path.name), check_one(path))[1]
    )
    return found


def content(dataset):
    """All that a run uses of a data set."""
    parts = [
        (part.ids, part.labels.tolist(), part.digests, part.near_duplicates.tolist())
        for part in dataset.parts
    ]
    return dataset.fingerprint, parts, dataset.decisions, dataset.size, dataset.channels


def test_known_files_are_not_read_and_give_the_same_data(folder, read):
    first = open_dataset(folder)
    assert len(read) == COUNT
    assert picture_check_cache.cache_folder().stat().st_mode & 0o777 == 0o700
    second = open_dataset(folder)
    assert len(read) == COUNT
    assert content(second) == content(first)
    table = [(p.levels.high.tolist(), p.formats.width.tolist()) for p in second.parts]
    assert table == [(p.levels.high.tolist(), p.formats.width.tolist()) for p in first.parts]


def test_a_file_of_the_same_size_and_time_of_modification_is_read_again(folder, read):
    before = open_dataset(folder).fingerprint
    path = folder / "a" / "00.png"
    times, whole = path.stat(), path.read_bytes()
    # The last byte of the check sum of IEND: Pillow reads the pixels all the same.
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    read.clear()
    assert open_dataset(folder).fingerprint == before
    assert read == ["00.png"]
    changed = np.asarray(Image.open(path)).copy()
    changed[0, 0] += 1
    Image.fromarray(changed).save(path)
    assert open_dataset(folder).fingerprint != before


def test_rehash_reads_files_again_whose_state_tells_nothing(folder, read, monkeypatch):
    monkeypatch.setattr(picture_check_cache, "_state", lambda path: [1, 2, 3, 4])
    before = open_dataset(folder).fingerprint
    changed = 255 - np.asarray(Image.open(folder / "a" / "00.png"))
    Image.fromarray(changed).save(folder / "a" / "00.png")
    assert open_dataset(folder).fingerprint == before
    forced = open_dataset(folder, reading=ReadOptions(is_forced=True)).fingerprint
    assert forced != before
    assert len(read) == 2 * COUNT
    assert open_dataset(folder).fingerprint == forced


@pytest.mark.parametrize("damage", ["a bit", "the end", "another version"])
def test_a_table_that_is_not_what_was_written_is_ignored(folder, read, damage, monkeypatch):
    before = content(open_dataset(folder))
    for path in picture_check_cache.cache_folder().rglob("*.*"):
        whole = path.read_bytes()
        middle = len(whole) // 2
        if damage == "a bit":
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        elif damage == "the end":
            path.write_bytes(whole[:middle])
    if damage == "another version":
        monkeypatch.setattr(picture_check_cache, "_FORMAT", "another")
    assert content(open_dataset(folder)) == before
    assert len(read) == 2 * COUNT


def test_a_command_that_was_killed_goes_on_where_it_was(folder, read, monkeypatch):
    monkeypatch.setattr(picture_check_cache, "_ROWS", 1)
    check = decode_pool.check

    def killed(pictures, reading, on_checked, **more):
        check(pictures[:10], reading, on_checked, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(decode_pool, "check", killed)
    with pytest.raises(KeyboardInterrupt):
        open_dataset(folder)
    monkeypatch.setattr(decode_pool, "check", check)
    read.clear()
    resumed = content(open_dataset(folder))
    assert len(read) == COUNT - 10
    assert resumed == content(open_dataset(folder, reading=ReadOptions(is_forced=True)))


def test_files_of_a_moment_ago_are_not_remembered(folder, read, monkeypatch):
    monkeypatch.setattr(picture_check_cache, "_SETTLED_NS", 3600 * 10**9)
    open_dataset(folder)
    open_dataset(folder)
    assert len(read) == 2 * COUNT


def test_files_that_cannot_be_read_are_read_again_each_time(folder, read):
    (folder / "a" / "00.png").write_bytes(b"no picture")
    for _ in range(2):
        assert len(open_dataset(folder, skip_corrupt=True).unreadable) == 1
    assert len(read) == COUNT + 1


def test_members_of_an_archive_are_known_by_its_state(folder, tmp_path, read):
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", folder)
    first = content(open_dataset(archive))
    assert content(open_dataset(archive)) == first
    assert len(read) == COUNT
    os.utime(archive)
    open_dataset(archive)
    assert len(read) == 2 * COUNT


def test_where_nothing_can_be_written_the_data_are_opened_and_it_is_said(folder, monkeypatch):
    blocked = folder.parent / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("LEPTON_CACHE_DIR", str(blocked))
    told = []
    assert open_dataset(folder, emit=told.append).size == (40, 40)
    assert any("not remembered" in event.message for event in told)


def test_few_pictures_leave_no_file_behind(folder, monkeypatch):
    monkeypatch.setattr(decode_pool, "MANY", COUNT + 1)
    open_dataset(folder)
    assert not picture_check_cache.cache_folder().exists()


def test_groups_of_arrays_are_searched_once(tmp_path, monkeypatch):
    searched, search = [], near_duplicates.find_near_duplicates
    monkeypatch.setattr(
        near_duplicates,
        "find_near_duplicates",
        lambda thumbs, labels: (searched.append(len(thumbs)), search(thumbs, labels))[1],
    )
    x, y = random_pictures(COUNT, (40, 40, 3)), np.arange(COUNT) % 2
    path = write_npz(tmp_path / "a.npz", x=x, y=y)
    first = open_dataset(path)
    assert content(open_dataset(path)) == content(first)
    assert searched == [COUNT]
    open_dataset(path, reading=ReadOptions(is_forced=True))
    assert searched == [COUNT] * 2
    x[0, :20] = 0
    open_dataset(write_npz(path_of := tmp_path / "a.npz", x=x, y=y))
    assert searched == [COUNT] * 3
    open_dataset(str(path_of))
    assert searched == [COUNT] * 3
