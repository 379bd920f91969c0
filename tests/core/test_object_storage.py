from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from lepton_automl.core import object_storage
from lepton_automl.core.object_storage import (
    FolderStorage,
    FsspecStorage,
    RetryingStorage,
    StorageError,
    open_storage,
)
from lepton_automl.errors import ConfigError, MachineError
from tests.helpers.storages import Planned, failing


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    if request.param == "folder":
        return open_storage(str(tmp_path / "store"))
    return open_storage(f"memory://{tmp_path.name}/store")


def test_objects_are_written_replaced_listed_and_deleted_by_name(storage):
    assert storage.read("a/b", 10) is None
    assert storage.objects("a") == []
    storage.write("a/b", b"one")
    storage.write("a/c/d", b"22")
    storage.write("ab", b"x")
    storage.write("a/b", b"three")
    assert storage.read("a/b", 5) == b"three"
    assert len(storage.read("a/b", 2)) == 3  # One more than asked for: it is larger.
    assert [(each.name, each.size) for each in storage.objects("a")] == [("a/b", 5), ("a/c/d", 2)]
    assert all(abs(each.modified - time.time()) < 60 for each in storage.objects("a"))
    storage.remove("a/b")
    storage.remove("a/b")
    assert [each.name for each in storage.objects("a")] == ["a/c/d"]


def test_an_object_is_created_once(storage):
    assert storage.create("a/1", b"first")
    assert not storage.create("a/1", b"second")
    assert storage.read("a/1", 10) == b"first"


@pytest.mark.parametrize("has_links", [True, False])
def test_of_many_that_create_an_object_at_once_one_succeeds(tmp_path, monkeypatch, has_links):
    def refused(*given, **more):
        raise OSError(errno.EPERM, "no hard links")

    if not has_links:
        monkeypatch.setattr(os, "link", refused)
    storage, made, barrier = FolderStorage(tmp_path), [], threading.Barrier(8)

    def create(number):
        barrier.wait()
        if storage.create("one", b"%d" % number):
            made.append(number)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [storage.read("one", 9)] == [b"%d" % number for number in made]
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_write_that_fails_leaves_the_former_object_and_nothing_beside_it(tmp_path, monkeypatch):
    storage = FolderStorage(tmp_path)
    storage.write("a", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        storage.write("a", b"new")
    assert not caught.value.is_temporary
    monkeypatch.undo()
    assert storage.read("a", 10) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_to_a_device_in_the_place_of_an_object_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="device"):
        FolderStorage(tmp_path).read("a", 10)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/run",
        "s3://secret@bucket/run",
        "s3://bucket/run?key=secret",
        "s3://bucket/run#secret",
        "simplecache::s3://bucket/secret",
    ],
)
def test_a_url_that_may_hold_credentials_is_refused_without_repeating_them(url):
    with pytest.raises(ConfigError, match="--store") as caught:
        open_storage(url)
    assert "secret" not in caught.value.what
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix


@pytest.mark.parametrize("url", ["", " ", "s3://", "s3:///"])
def test_a_url_that_names_no_place_is_refused(url):
    with pytest.raises(ConfigError, match="names no place"):
        open_storage(url)


def test_an_unknown_scheme_and_a_missing_package_have_messages(monkeypatch):
    with pytest.raises(ConfigError, match="nosuch"):
        open_storage("nosuch://place/run")

    def missing(name):
        raise ImportError("No module named 's3fs'")

    monkeypatch.setattr(object_storage.importlib, "import_module", missing)
    with pytest.raises(MachineError, match="s3fs") as caught:
        open_storage("s3://bucket/run")
    assert "lepton-automl[s3]" in caught.value.fix


def test_a_file_url_is_a_folder(tmp_path):
    storage = open_storage(f"file://{tmp_path}/store")
    storage.write("a", b"1")
    assert (tmp_path / "store" / "a").read_bytes() == b"1"
    assert not isinstance(storage, FsspecStorage)


def patient(monkeypatch, storage, seconds=60.0):
    """A retrying storage whose pauses are noted, and advance its clock."""
    clock, pauses = [0.0], []
    monkeypatch.setattr(object_storage.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(object_storage.random, "uniform", lambda low, high: high)
    made = RetryingStorage(storage, seconds)

    def wait(pause):
        pauses.append(pause)
        clock[0] += pause
        return False

    monkeypatch.setattr(made.is_ending, "wait", wait)
    return made, pauses


def test_what_fails_for_a_moment_is_repeated_with_growing_pauses(tmp_path, monkeypatch):
    planned = Planned(FolderStorage(tmp_path), failing(lambda number: number <= 8))
    storage, pauses = patient(monkeypatch, planned)
    storage.write("a", b"1")
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert (storage.requests, storage.bytes_written) == (9, 1)


def test_a_request_is_given_up_after_its_time(tmp_path, monkeypatch):
    storage, pauses = patient(
        monkeypatch, Planned(FolderStorage(tmp_path), failing(lambda number: True)), seconds=5.0
    )
    with pytest.raises(StorageError, match="planned"):
        storage.write("a", b"1")
    assert sum(pauses) <= 5.0


def test_what_does_not_go_away_is_not_repeated(tmp_path, monkeypatch):
    fault = failing(lambda number: True, is_temporary=False)
    storage, pauses = patient(monkeypatch, Planned(FolderStorage(tmp_path), fault))
    with pytest.raises(StorageError):
        storage.read("a", 1)
    assert pauses == []


def test_an_object_that_was_made_though_the_answer_was_lost_is_ones_own(tmp_path, monkeypatch):
    planned = Planned(FolderStorage(tmp_path), failing(lambda number: number == 1), after=True)
    storage, _ = patient(monkeypatch, planned)
    assert storage.create("a", b"mine")
    assert not storage.create("a", b"other")
