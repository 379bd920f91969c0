from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from lepton_automl.core import object_storage, untrusted_files
from lepton_automl.core.object_storage import FolderStorage, RetryingStorage
from lepton_automl.errors import ConfigError, InfeasibleError, MachineError
from lepton_automl.runs import store as stores
from lepton_automl.runs import store_copy, stored_run
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.runs.store import Store
from lepton_automl.runs.stored_run import StoredRun
from tests.helpers.processes import eventually
from tests.helpers.storages import Planned, dying, failing
from tests.helpers.stored_runs import OTHER, WANTED, command


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(store_copy, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(store_copy, "_LONGEST_WAIT", 0.05)
    monkeypatch.setattr(store_copy, "_LAST_WAIT", 0.01)
    monkeypatch.setattr(store_copy, "END_SECONDS", 1.0)
    monkeypatch.setattr(store_copy, "_INTERRUPTED_SECONDS", 0.1)
    monkeypatch.setattr(object_storage, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stored_run, "START_SECONDS", 0.05)
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.5)
    for module in (stores, store_copy, stored_run):
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "store")


def begin_and_end(place, path, **options):
    """A command that finds nothing to do."""
    with command(place, path, **options):
        pass


def write_whole(path, content):
    """As a run writes files: what is copied meanwhile is all of one or nothing."""
    new = path.with_name(f".{path.name}.tmp")
    new.write_bytes(content)
    new.rename(path)


def train(folder, ledger, number, rung=0, *, size=6000):
    """Record a rung as a search does: checkpoint, event, then the earlier checkpoint goes."""
    checkpoint = folder.checkpoints / f"{number:05d}-{rung}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    write_whole(checkpoint / "arch.json", f'{{"number": {number}}}'.encode())
    write_whole(checkpoint / "weights.safetensors", bytes([number, rung]) * (size // 2))
    ledger.record("rung", f"{number}-{rung}", {"accuracy": number / 7})
    if rung:
        before = folder.checkpoints / f"{number:05d}-{rung - 1}"
        (before / "weights.safetensors").unlink()
        shutil.rmtree(before)


def some_work(folder, ledger):
    (folder.path / "cache").mkdir(exist_ok=True)
    write_whole(folder.path / "cache" / "train.npy", b"pixels" * 9000)
    for number in range(3):
        train(folder, ledger, number)
    train(folder, ledger, 1, rung=1)
    (folder.path / "models" / "best").mkdir(parents=True)
    write_whole(folder.path / "models" / "best" / "weights.safetensors", b"best" * 2000)


def contents(path):
    """Files of a run that a store has, and the events."""
    names = [*store_copy.FOLDERS, "run.toml"]
    found = {
        str(file.relative_to(path)): file.read_bytes()
        for name in names
        for file in [path / name, *(path / name).rglob("*")]
        if file.is_file()
    }
    if not (path / "ledger.db").exists():
        return found | {"events": []}
    with sqlite3.connect(path / "ledger.db") as db:
        found["events"] = db.execute(
            "SELECT seq, kind, key, value, at, digest FROM events ORDER BY seq"
        ).fetchall()
    return found


def test_a_run_goes_on_in_an_empty_folder_of_another_machine(tmp_path, place):
    with command(place, tmp_path / "a") as (folder, ledger):
        some_work(folder, ledger)
        seconds = ledger.alive_seconds()
    said = []
    with command(place, tmp_path / "b", events=said) as (folder, ledger):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
        assert ledger.alive_seconds() >= seconds
        train(folder, ledger, 2, rung=1)
    assert "4 events and 8 files" in said[0].message
    with command(place, tmp_path / "a"):  # And back: the first folder is behind now.
        assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_a_folder_that_is_ahead_completes_its_store(tmp_path, place):
    with command(place, tmp_path / "a") as (folder, ledger):
        train(folder, ledger, 0)
    with RunFolder(tmp_path / "a").claimed(WANTED, fresh=False) as lock:
        ledger = Ledger(tmp_path / "a" / "ledger.db", lock=lock)
        train(RunFolder(tmp_path / "a"), ledger, 1)
        ledger.close()
    with command(place, tmp_path / "a"):
        pass
    with command(place, tmp_path / "b"):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_folder_and_store_that_have_gone_on_separately_are_refused(tmp_path, place):
    with command(place, tmp_path / "a") as (folder, ledger):
        train(folder, ledger, 0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with command(place, tmp_path / "a") as (folder, ledger):
        train(folder, ledger, 1)
    with RunFolder(tmp_path / "b").claimed(WANTED, fresh=False) as lock:
        ledger = Ledger(tmp_path / "b" / "ledger.db", lock=lock)
        train(RunFolder(tmp_path / "b"), ledger, 2)
        ledger.close()
    before = contents(tmp_path / "b")
    with pytest.raises(ConfigError, match="gone on separately: 2 events here, 2 there"):
        begin_and_end(place, tmp_path / "b")
    assert contents(tmp_path / "b") == before


def test_another_definition_is_refused_with_the_difference(tmp_path, place):
    with command(place, tmp_path / "a"):
        pass
    with pytest.raises(ConfigError, match=r"store holds another run: seed: 3 here, 4 asked for"):
        begin_and_end(place, tmp_path / "b", wanted=OTHER)
    assert not (tmp_path / "b" / "run.toml").exists()


def test_two_runs_of_one_definition_are_not_mixed(tmp_path, place):
    for name, own in (("a", place), ("b", f"{place}2")):
        with command(own, tmp_path / name):
            pass
    with pytest.raises(ConfigError, match="two runs with the same definition"):
        begin_and_end(place, tmp_path / "b")


def test_fresh_keeps_the_earlier_run_of_the_store_aside(tmp_path, place):
    with command(place, tmp_path / "a") as (folder, ledger):
        train(folder, ledger, 0)
    said = []
    with command(place, tmp_path / "a", wanted=OTHER, fresh=True, events=said) as (folder, ledger):
        train(folder, ledger, 5)
    store = Store.at(place, 1.0)
    log = store.read_log(store.latest())
    assert [row[2] for row in log.rows] == ["5-0"]
    (aside,) = store.storage.objects("aside")
    assert aside.name in said[0].message
    earlier = stores.Manifest.from_json(store.storage.read(aside.name, 9999), "aside")
    assert [row[2] for row in store.read_log(earlier).rows] == ["0-0"]
    for each in store.storage.objects("objects"):
        os.utime(tmp_path / "store" / each.name, (1, 1))
    assert stores.collect(store, 100)[0] == 0


def test_while_a_command_works_another_one_is_refused(tmp_path, place):
    with command(place, tmp_path / "a") as (folder, ledger):
        train(folder, ledger, 0)
        with pytest.raises(ConfigError, match="another command works on the run in") as caught:
            begin_and_end(place, tmp_path / "b")
        assert "--take-over" in caught.value.fix
        assert not (tmp_path / "b" / "run.toml").exists()
        train(folder, ledger, 1)
    with command(place, tmp_path / "b") as (folder, ledger):
        assert len(ledger.rows_after(0)) == 2


def test_take_over_ends_the_first_command_at_its_next_event(tmp_path, place):
    def first():
        with command(place, tmp_path / "a") as (folder, ledger):
            train(folder, ledger, 0)
            eventually(lambda: Store.at(place, 1.0).latest().events == 1)
            with command(place, tmp_path / "b", takes_over=True) as (other, others):
                assert len(others.rows_after(0)) == 1
                train(other, others, 7)
                eventually(lambda: _is_fenced(ledger))
                train(folder, ledger, 1)
                pytest.fail("the first command was not ended")

    with pytest.raises(ConfigError, match="was taken over by another command on") as caught:
        first()
    assert str(tmp_path / "a") in caught.value.fix
    store = Store.at(place, 1.0)
    assert [row[2] for row in store.read_log(store.latest()).rows] == ["0-0", "7-0"]
    with pytest.raises(ConfigError, match="gone on separately"):
        begin_and_end(place, tmp_path / "a")


def _is_fenced(ledger):
    return any(copy._fenced for copy in ledger._observers)


def work_until_killed(place, path, storage, notes):
    """In a child process: what is acknowledged is written to a pipe."""
    advance = Store.advance

    def told(self, manifest):
        advance(self, manifest)
        os.write(notes, b"%d\n" % manifest.events)

    stores.Store.advance = told
    stored_run.Store.at = classmethod(lambda cls, url, s: cls(RetryingStorage(storage, s)))
    with command(place, path) as (folder, ledger):
        some_work(folder, ledger)


def killed(place, path, at, *, after):
    """A command killed at the Nth operation on its store: acknowledged events, whether killed."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            storage = Planned(FolderStorage(path.parent / "store"), dying(at), after=after)
            work_until_killed(place, path, storage, write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as notes:
        told = [int(line) for line in notes]
    _, status = os.waitpid(pid, 0)
    return max(told, default=0), os.WIFSIGNALED(status)


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_operation_nothing_acknowledged_is_lost(tmp_path, place, after):
    at, was_killed, here = 0, True, {"events": []}
    while was_killed:
        at += 1 if at < 14 else 5
        acknowledged, was_killed = killed(place, tmp_path / "a", at, after=after)
        if (tmp_path / "a" / "ledger.db").exists():
            here = contents(tmp_path / "a")
        store = Store.at(place, 1.0)
        latest = store.latest()
        if latest is not None:
            rows = store.read_log(latest).rows
            assert acknowledged <= len(rows) <= len(here["events"])
            assert rows == [row[:5] for row in here["events"][: len(rows)]]
            stored = StoredRun(place, RunFolder(tmp_path / "b"), takes_over=True, emit=print)
            with stored, RunFolder(tmp_path / "b").claimed(WANTED, fresh=False, run_id="x"):
                stored.take(fresh=False)
                brought = contents(tmp_path / "b")
            assert brought["events"] == here["events"][: len(rows)]
            files = {path: brought[path] for path in brought if "/" in path}
            expected = here | _deleted()
            assert files == {path: expected[path] for path in files}
            assert {path.split("/")[1] for path in files if "checkpoints" in path} or not rows
        for name in ("a", "b", "store"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    assert at > 16


def _deleted():
    """The checkpoint that `some_work` deletes at last, which an earlier generation names."""
    own = "checkpoints/00001-0"
    return {
        f"{own}/arch.json": b'{"number": 1}',
        f"{own}/weights.safetensors": b"\1\0" * 3000,
    }


@pytest.mark.parametrize("step", [2, 3, 7])
def test_a_store_that_fails_now_and_then_gets_everything(tmp_path, place, monkeypatch, step):
    storage = Planned(FolderStorage(tmp_path / "store"), failing(lambda n: n % step == 0))
    opened = classmethod(lambda cls, url, s: cls(RetryingStorage(storage, s)))
    with monkeypatch.context() as patched:
        patched.setattr(stored_run.Store, "at", opened)
        with command(place, tmp_path / "a") as (folder, ledger):
            some_work(folder, ledger)
    with command(place, tmp_path / "b"):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_store_that_is_down_is_said_once_and_stops_the_command_at_its_end_only(
    tmp_path, place, monkeypatch
):
    is_down = threading.Event()
    storage = Planned(FolderStorage(tmp_path / "store"), failing(lambda n: is_down.is_set()))
    opened = classmethod(lambda cls, url, s: cls(RetryingStorage(storage, s)))
    said = []

    def work_while_it_goes_down():
        with command(place, tmp_path / "a", events=said) as (folder, ledger):
            (copy,) = ledger._observers
            train(folder, ledger, 0)
            eventually(lambda: copy.facts()["events_behind"] == 0)
            is_down.set()
            for number in range(1, 4):
                train(folder, ledger, number)
            eventually(lambda: copy.facts()["error"])
            train(folder, ledger, 4)
            assert copy.facts()["events_behind"] == 4

    with monkeypatch.context() as patched:
        patched.setattr(stored_run.Store, "at", opened)
        with pytest.raises(MachineError, match=r"is not complete: 4 events and \d+ files") as end:
            work_while_it_goes_down()
    assert [event.message for event in said if "planned" in event.message][1:] == []
    assert str(tmp_path / "a") in end.value.what
    assert "run" in end.value.fix
    assert end.value.exit_code == 7
    with command(place, tmp_path / "a"):  # The same command again completes it.
        pass
    with command(place, tmp_path / "b"):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


class Failing(io.BufferedReader):
    """A file on a disk that fails while it is read."""

    def read(self, size=-1, /):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("when", ["opened", "read"])
def test_a_file_of_the_run_that_the_machine_does_not_let_read_is_not_left_out(
    tmp_path, place, monkeypatch, when
):
    opened, real = untrusted_files.open_file, os.open

    def failing_open(path, *more, **options):
        if Path(path).parts[-2:] == ("00001-0", "weights.safetensors"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *more, **options)

    def failing_file(path, *more, **options):
        file = opened(path, *more, **options)
        return Failing(file.detach()) if path.name == "weights.safetensors" else file

    def work():
        with command(place, tmp_path / "a") as (folder, ledger):
            train(folder, ledger, 1)

    with monkeypatch.context() as patched:
        if when == "opened":
            patched.setattr(os, "open", failing_open)
        else:
            patched.setattr(untrusted_files, "open_file", failing_file)
        with pytest.raises(MachineError, match=r"00001-0/weights\.safetensors cannot be read"):
            work()
    with command(place, tmp_path / "a"):  # The same command again completes it.
        pass
    with command(place, tmp_path / "b"):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_store_that_is_down_at_the_start_ends_the_command(tmp_path, monkeypatch, place):
    storage = Planned(FolderStorage(tmp_path / "store"), failing(lambda n: True))
    opened = classmethod(lambda cls, url, s: cls(RetryingStorage(storage, s)))
    monkeypatch.setattr(stored_run.Store, "at", opened)
    with pytest.raises(MachineError, match="planned"):
        begin_and_end(place, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_bug_of_the_copy_is_said_and_raised_at_the_end(tmp_path, place, monkeypatch):
    def broken(self, rows, owner=None):
        raise LookupError("a bug")

    monkeypatch.setattr(store_copy.StoreCopy, "_add", broken)
    said = []

    def work():
        with command(place, tmp_path / "a", events=said) as (folder, ledger):
            (copy,) = ledger._observers
            eventually(lambda: copy._bug)
            train(folder, ledger, 0)
            train(folder, ledger, 1)

    with pytest.raises(LookupError, match="a bug"):
        work()
    (warning,) = [event.message for event in said if "has ended by an error" in event.message]
    assert "LookupError: a bug" in warning


def test_an_error_of_the_command_is_told_and_not_that_of_its_store(tmp_path, place, monkeypatch):
    storage = Planned(FolderStorage(tmp_path / "store"), failing(lambda n: n > 9))
    opened = classmethod(lambda cls, url, s: cls(RetryingStorage(storage, s)))
    monkeypatch.setattr(stored_run.Store, "at", opened)
    said = []

    def fail():
        with command(place, tmp_path / "a", events=said) as (folder, ledger):
            some_work(folder, ledger)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert any("not complete" in event.message for event in said)


def test_a_run_that_was_infeasible_leaves_no_run_in_the_store(tmp_path, place):
    with pytest.raises(InfeasibleError), command(place, tmp_path / "a"):
        raise InfeasibleError("no net", fix="other limits")
    assert Store.at(place, 1.0).latest() is None


def test_a_damaged_object_is_made_again_and_nothing_else_is_lost(tmp_path, place):
    with command(place, tmp_path / "a") as (folder, ledger):
        some_work(folder, ledger)
    store = Store.at(place, 1.0)
    entry = store.read_log(store.latest()).files["checkpoints/00000-0/weights.safetensors"]
    path = tmp_path / "store" / stores.object_name(entry.pieces[0])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    said = []
    with command(place, tmp_path / "b", events=said):
        expected = contents(tmp_path / "a")
        del expected["checkpoints/00000-0/weights.safetensors"]
        assert contents(tmp_path / "b") == expected
    assert "1 are missing or damaged there and are made again" in said[0].message


@pytest.mark.parametrize("path", ["../x", "/etc/x", "cache/../../x", "ledger.db", "models", "a\n"])
def test_a_store_cannot_write_outside_of_what_a_run_holds(tmp_path, place, path):
    with command(place, tmp_path / "a") as (folder, ledger):
        train(folder, ledger, 0)
    store = Store.at(place, 1.0)
    known = store.latest()
    entry = stores.FileEntry(path, 1, "0" * 64, (), "x")
    log = store.read_log(known)
    rows = [*log.rows]
    batches = tuple(b for b, _ in stores.write_batches(store, rows, log.files | {path: entry}))
    fields = {"generation": known.generation + 1, "batches": batches}
    store.advance(stores.dataclasses.replace(known, **fields))
    with pytest.raises(ConfigError, match="not a file of a run"):
        begin_and_end(place, tmp_path / "b")
    assert not (tmp_path / "x").exists()


def test_many_batches_become_few_and_say_the_same(tmp_path, place, monkeypatch):
    monkeypatch.setattr(store_copy, "FANOUT", 3)
    with command(place, tmp_path / "a") as (folder, ledger):
        (copy,) = ledger._observers
        for number in range(30):
            train(folder, ledger, number)
            if number % 3 == 2:
                train(folder, ledger, number, rung=1)
            eventually(lambda: copy.facts()["events_behind"] == 0)
    store = Store.at(place, 1.0)
    latest = store.latest()
    assert len(latest.batches) < 10
    assert max(batch.level for batch in latest.batches) >= 2
    objects = {each.name.rpartition("/")[2] for each in store.storage.objects("objects")}
    named = {batch.sha256 for batch in latest.batches}
    for entry in store.read_log(latest).files.values():
        named.update(entry.pieces)
    assert objects == named  # What was superseded is deleted.
    with command(place, tmp_path / "b"):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_large_files_are_copied_piece_by_piece_between_generations(tmp_path, place, monkeypatch):
    for module in (store_copy, stored_run):
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    monkeypatch.setattr(store_copy, "_BULK_SECONDS", 0.0)
    with command(place, tmp_path / "a") as (folder, ledger):
        (copy,) = ledger._observers
        some_work(folder, ledger)
        content = os.urandom(10_500)
        write_whole(folder.path / "cache" / "large.npy", content)
        before = copy.facts()["generation"]
        eventually(lambda: _files(place).get("cache/large.npy"))
        entry = _files(place)["cache/large.npy"]
        assert (entry.size, len(entry.pieces)) == (10_500, 11)
        assert copy.facts()["generation"] - before > 5  # The lease is renewed meanwhile.
        train(folder, ledger, 9)
    with command(place, tmp_path / "b"):
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "b" / "cache" / "large.npy").read_bytes() == content


def _files(place):
    store = Store.at(place, 1.0)
    return store.read_log(store.latest()).files


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_brought(
    tmp_path, place, monkeypatch
):
    with command(place, tmp_path / "a") as (folder, ledger):
        some_work(folder, ledger)
    usage = shutil.disk_usage(tmp_path)._replace(free=70_000)
    monkeypatch.setattr(stored_run.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MachineError, match=r"80\.0 kB, the disk of .* has 70\.0 kB left"):
        begin_and_end(place, tmp_path / "b")


def test_files_that_change_while_they_are_copied_are_copied_in_one_state(
    tmp_path, place, monkeypatch
):
    """A model is replaced, file by file and its weights last, after its first file was read."""
    names = ("arch.json", "model.json", "weights.safetensors")

    def save(folder, text):
        folder.best.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder.best / f".new{text}").write_text(text)
            (folder.best / f".new{text}").rename(folder.best / name)

    stored = store_copy.StoreCopy._stored

    def changed_meanwhile(self, path):
        yield from stored(self, path)
        weights = self._folder.best / names[-1]
        if not path.endswith("best/arch.json"):
            return
        assert eventually(weights.exists)
        if weights.read_text() == "1":
            save(self._folder, "2")

    monkeypatch.setattr(store_copy.StoreCopy, "_stored", changed_meanwhile)
    advance, seen = Store.advance, []

    def advance_and_look(self, manifest):
        advance(self, manifest)
        files = self.read_log(manifest).files
        seen.append(
            {files[f"models/best/{n}"].content for n in names if f"models/best/{n}" in files}
        )

    monkeypatch.setattr(Store, "advance", advance_and_look)
    with command(place, tmp_path / "a") as (folder, ledger):
        save(folder, "1")
        train(folder, ledger, 0)
    assert all(len(contents) <= 1 for contents in seen)
    assert seen[-1] == {"2"}


def test_between_looks_at_all_checkpoints_only_those_of_new_events_are_looked_at(
    tmp_path, place, monkeypatch
):
    looked, files_of = [], store_copy.StoreCopy._checkpoint_files

    def noted(self, folder):
        looked.append(folder.name)
        yield from files_of(self, folder)

    monkeypatch.setattr(store_copy.StoreCopy, "_checkpoint_files", noted)
    with command(place, tmp_path / "a") as (folder, ledger):
        (copy,) = ledger._observers
        for number in range(20):
            train(folder, ledger, number)
        eventually(lambda: copy.facts()["events_behind"] == 0)
        looked.clear()
        train(folder, ledger, 3, rung=1)
        ledger.record("winner", "0", {})
        eventually(lambda: copy.facts()["events_behind"] == 0)
        assert set(looked) <= {"00003-0", "00003-1"}
        known = _files(place)
        assert "checkpoints/00003-1/weights.safetensors" in known
        assert "checkpoints/00003-0/weights.safetensors" not in known
        shutil.rmtree(folder.checkpoints / "00004-0")  # At the end of a search.
    assert not [path for path in _files(place) if "00004-0" in path]


def test_an_interrupted_command_does_not_wait_for_decoded_data(tmp_path, place, monkeypatch):
    for module in (store_copy, stored_run):
        monkeypatch.setattr(module, "PIECE_BYTES", 10)
    monkeypatch.setattr(store_copy, "_BULK_SECONDS", 0.0)

    def interrupted():
        with command(place, tmp_path / "a") as (folder, ledger):
            (folder.path / "cache").mkdir()
            # A piece of ten bytes after the other: minutes.
            write_whole(folder.path / "cache" / "large.npy", os.urandom(4_000_000))
            train(folder, ledger, 0)
            time.sleep(0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "cache/large.npy" not in _files(place)
    assert "checkpoints/00000-0/weights.safetensors" in _files(place)
    assert Store.at(place, 1.0).latest().owner == ""


def test_a_command_killed_and_started_again_in_its_folder_does_not_wait(tmp_path, place):
    killed(place, tmp_path / "a", 10, after=False)
    assert Store.at(place, 1.0).latest().owner
    begun = time.monotonic()
    said = []
    with command(place, tmp_path / "a", events=said):
        pass
    assert not [event for event in said if "watching" in event.message]
    assert time.monotonic() - begun < 60
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    killed(place, tmp_path / "a", 12, after=False)
    owner = json.loads((tmp_path / "a" / "ledger.store.json").read_text())["owner"]
    (tmp_path / "copy" / "ledger.store.json").write_text(
        (tmp_path / "a" / "ledger.store.json").read_text()
    )
    if Store.at(place, 1.0).latest().owner == owner:
        with command(place, tmp_path / "copy", events=said):
            pass
        assert [event for event in said if "watching" in event.message]


def test_a_stopped_command_that_wakes_after_a_take_over_changes_nothing(tmp_path, place):
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with command(place, tmp_path / "a") as (folder, ledger):
                train(folder, ledger, 0)
                time.sleep(0.3)
                os.write(ready[1], b"1")
                os.read(go[0], 1)
                for number in range(1, 400):
                    train(folder, ledger, number)
                    time.sleep(0.01)
        except ConfigError as error:
            code = 4 if "taken over" in error.what else 3
        finally:
            os._exit(code)
    os.read(ready[0], 1)
    os.kill(pid, signal.SIGSTOP)
    with command(place, tmp_path / "b") as (folder, ledger):
        train(folder, ledger, 7)
        os.kill(pid, signal.SIGCONT)
        os.write(go[1], b"1")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 4
        train(folder, ledger, 8)
    store = Store.at(place, 1.0)
    keys = [row[2] for row in store.read_log(store.latest()).rows]
    assert keys == ["0-0", "7-0", "8-0"]
