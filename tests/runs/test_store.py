from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import tracemalloc
import zlib

import pytest

from lepton_automl.core.object_storage import FolderStorage, RetryingStorage
from lepton_automl.errors import ConfigError
from lepton_automl.runs import store as stores
from lepton_automl.runs.store import (
    Fenced,
    FileEntry,
    LeaseWatch,
    Manifest,
    Store,
    chained,
    collect,
    object_name,
    write_batches,
)
from tests.helpers.storages import Planned, failing

ROWS = [(n, "rung", f"{n}-0", json.dumps({"n": n}), 1.5 * n) for n in range(1, 6)]


def store_in(folder, storage=None):
    return Store(RetryingStorage(storage or FolderStorage(folder), 1.0))


def manifest(store, rows=ROWS, generation=1, **changes):
    content = b"weights" * 1000
    entry = FileEntry(
        "models/best/w", len(content), hashlib.sha256(content).hexdigest(), (store.put(content),)
    )
    small = FileEntry("run.toml", 5, hashlib.sha256(b"a = 1").hexdigest(), (), "a = 1")
    changed = {entry.path: entry, small.path: small}
    batches = tuple(batch for batch, _ in write_batches(store, rows, changed))
    fields = {
        "generation": generation,
        "run_id": "id",
        "owner": "me",
        "host": "here",
        "events": len(rows),
        "digest": chained("", rows),
        "alive_seconds": 3.5,
        "batches": batches,
    }
    return Manifest(**(fields | changes)), changed


def test_the_last_generation_is_read_with_its_events_and_files(tmp_path):
    store = store_in(tmp_path)
    assert store.latest() is None
    made, changed = manifest(store)
    store.advance(dataclasses.replace(made, generation=1, alive_seconds=1.0))
    store.advance(dataclasses.replace(made, generation=2))
    other = store_in(tmp_path)
    assert other.latest() == dataclasses.replace(made, generation=2)
    log = other.read_log(other.latest())
    assert log.rows == ROWS
    assert log.files == changed
    assert other.get(changed["models/best/w"].pieces[0]) == b"weights" * 1000


def test_an_object_is_stored_once_and_its_name_is_its_digest(tmp_path):
    planned = Planned(FolderStorage(tmp_path), lambda number: None)
    store = store_in(tmp_path, planned)
    digest = store.put(b"content")
    assert store.put(b"content") == digest == hashlib.sha256(b"content").hexdigest()
    assert planned.asked == [("write", f"objects/{digest[:2]}/{digest}")]


@pytest.mark.parametrize("change", [b"", b"conten", b"contenT", b"content "])
def test_an_object_of_other_content_is_none(tmp_path, change):
    store = store_in(tmp_path)
    digest = store.put(b"content")
    (tmp_path / object_name(digest)).write_bytes(change)
    assert store.get(digest) is None
    assert store.put(b"content") == digest  # Written again.
    assert store.get(digest) == b"content"


def test_every_changed_byte_of_a_manifest_is_noticed(tmp_path):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    store.advance(made)
    path = tmp_path / "manifest" / f"{1:010d}"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ConfigError, match="manifest"):
            store.latest()
    path.write_bytes(content.replace(b'"format":1', b'"format":2'))
    with pytest.raises(ConfigError, match="format is 2"):
        store.latest()


def test_a_log_whose_batch_is_missing_or_another_is_refused(tmp_path):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    path = tmp_path / object_name(made.batches[0].sha256)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(ConfigError, match="missing or damaged"):
        store.read_log(made)
    path.write_bytes(content)
    assert store.read_log(made).rows == ROWS
    short = zlib.compress(zlib.decompress(content).split(b"\n", 1)[1])
    changes = {"sha256": store.put(short), "size": len(short)}
    lost = dataclasses.replace(made.batches[0], **changes)
    with pytest.raises(ConfigError, match="other events than are named"):
        store.read_log(dataclasses.replace(made, batches=(lost,)))
    lost = dataclasses.replace(lost, first=2)
    with pytest.raises(ConfigError, match="not those that were recorded"):
        store.read_log(dataclasses.replace(made, batches=(lost,)))


def test_what_a_command_at_work_deletes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    old, _ = manifest(store, ROWS[:2])
    store.advance(old)
    reader, read_log = store_in(tmp_path), Store.read_log

    def delete_before(self, manifest):
        if manifest.generation == 1:
            new, _ = globals()["manifest"](store, generation=2)
            store.advance(new)
            store.remove({batch.sha256 for batch in old.batches})
        return read_log(self, manifest)

    monkeypatch.setattr(Store, "read_log", delete_before)
    found, log = reader.latest_log()
    assert (found.generation, log.rows) == (2, ROWS)
    store.remove({batch.sha256 for batch in found.batches})
    with pytest.raises(ConfigError, match="missing or damaged"):
        reader.latest_log()


@pytest.mark.parametrize(
    "text",
    [
        *(b"[]", b"1", b'["x"]', b'["e",0,"a","b","{}",1]', b'["e",1,"a","b",3,1]', b'["f","a"]'),
        *(b'["f","a",1,"zz",[],null]', b'["e",1,"a","b","{}",NaN]', b"{", b"\xff"),
        *(b'["d"]', b'["d","a","b"]', b'["d",1]', b'["e",true,"a","b","{}",1]'),
        *(b'["f","a",1.5,"' + b"a" * 64 + b'",[],""]', b'["f","a",-1,"' + b"a" * 64 + b'",[],""]'),
        *(b'["e",18446744073709551615,"a","b","{}",1]', b'["e",1,"a","b","{}",1'),
    ],
)
def test_a_batch_of_nonsense_is_refused(tmp_path, text):
    store = store_in(tmp_path)
    with pytest.raises(ConfigError, match="not part of a log") as caught:
        read_batch(store, text + b"\n")
    assert "cut off" not in caught.value.what


def read_batch(store, text, first=1, last=1, **changes):
    content = zlib.compress(text)
    batch = stores.Batch(store.put(content), len(content), 0, first, last)
    made, _ = manifest(store)
    return store.read_log(dataclasses.replace(made, batches=(batch,), **changes))


@pytest.mark.parametrize("text", [b"", b'["d","a"]', b'["d","a"]\n["d"'])
def test_a_batch_whose_last_entry_is_cut_off_is_refused(tmp_path, text):
    store = store_in(tmp_path)
    with pytest.raises(ConfigError, match=r"cut off|other events"):
        read_batch(store, text)


@pytest.mark.parametrize("text", [b" " * (48 << 20), b"[1]\n" * (12 << 20)])
def test_a_batch_that_unpacks_to_far_more_is_refused_before_it_fills_the_memory(
    tmp_path, monkeypatch, text
):
    monkeypatch.setattr(stores, "_MOST_LINE_BYTES", 2 << 20)
    store = store_in(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="not part of a log"):
            read_batch(store, text)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_log_is_read_up_to_a_multiple_of_what_is_stored_of_it(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    (batch,) = made.batches
    size = len(zlib.decompress(store.get(batch.sha256, batch.size)))
    monkeypatch.setattr(stores, "_MOST_LOG_RATIO", 1)
    monkeypatch.setattr(stores, "_MOST_LOG_BYTES", size)
    assert store.read_log(made).rows == ROWS
    monkeypatch.setattr(stores, "_MOST_LOG_BYTES", size - 1)
    with pytest.raises(ConfigError, match="times its packed size"):
        store.read_log(made)
    monkeypatch.setattr(stores, "_MOST_LOG_RATIO", 200)
    assert store.read_log(made).rows == ROWS
    # A batch that is named again and again is stored once.
    files = zlib.compress(b"".join(b'["d","%d"]\n' % n for n in range(500)))
    named = stores.Batch(store.put(files), len(files), 0, 0, 0)
    monkeypatch.setattr(stores, "_MOST_LOG_RATIO", 20)
    for count, is_read in ((1, True), (1000, False)):
        many = dataclasses.replace(made, batches=(batch, *[named] * count))
        if is_read:
            assert store.read_log(many).rows == ROWS
        else:
            with pytest.raises(ConfigError, match="times its packed size"):
                store.read_log(many)


@pytest.mark.parametrize("seqs", [(2, 1), (1, 1)])
def test_events_whose_numbers_do_not_rise_are_refused(tmp_path, seqs):
    rows = [(seq, "rung", f"{n}-0", "{}", 1.0) for n, seq in enumerate(seqs)]
    text = b"".join(json.dumps(["e", *row]).encode() + b"\n" for row in rows)
    claims = {"events": 2, "digest": chained("", rows)}
    with pytest.raises(ConfigError, match="do not rise"):
        read_batch(store_in(tmp_path), text, *seqs, **claims)


@pytest.mark.parametrize(
    "change",
    [
        *({"generation": 2.0}, {"generation": -1}, {"events": 5.0}, {"events": 1 << 60}),
        *({"size": 1.5}, {"level": 0.0}, {"first": -1}, {"last": True}, {"batches": 4097}),
    ],
)
def test_numbers_of_a_manifest_are_whole_and_bounded(tmp_path, change):
    made, _ = manifest(store_in(tmp_path))
    if "batches" in change:
        changed = dataclasses.replace(made, batches=made.batches * change["batches"])
    elif next(iter(change)) in ("generation", "events"):
        changed = dataclasses.replace(made, **change)
    else:
        batch = dataclasses.replace(made.batches[0], **change)
        changed = dataclasses.replace(made, batches=(batch,))
    assert Manifest.from_json(made.to_json().encode(), "here") == made
    with pytest.raises(ConfigError, match="not a manifest"):
        Manifest.from_json(changed.to_json().encode(), "here")


def test_large_entries_are_split_into_batches_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "BATCH_BYTES", 100)
    store = store_in(tmp_path)
    made, changed = manifest(store)
    assert len(made.batches) > 2
    assert store.read_log(made).rows == ROWS
    assert store.read_log(made).files == changed


def test_who_makes_a_generation_second_has_lost_the_run(tmp_path):
    first, second = store_in(tmp_path), store_in(tmp_path)
    made, _ = manifest(first)
    first.advance(made)
    first.advance(made)  # The same again, such as after a lost answer.
    with pytest.raises(Fenced) as caught:
        second.advance(dataclasses.replace(made, owner="you"))
    assert caught.value.host == "here"
    assert second.latest().owner == "me"


def test_a_writer_that_slept_while_its_generations_were_deleted_has_lost_the_run(
    tmp_path, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(stores, "_now", lambda: clock[0])
    first, second = store_in(tmp_path), store_in(tmp_path)
    made, _ = manifest(first)
    first.advance(made)
    clock[0] += 3600
    for number in range(2, 4 * stores.KEPT):
        second.advance(dataclasses.replace(made, generation=number, owner="you", host="there"))
    assert len(second.generations()) < 3 * stores.KEPT
    assert 2 not in second.generations()
    with pytest.raises(Fenced) as caught:
        first.advance(dataclasses.replace(made, generation=2))
    assert caught.value.host == "there"
    assert second.latest().owner == "you"


class Forgetful(FolderStorage):
    """Makes an object twice, as a store that knows no conditions."""

    def create(self, name, content):
        self.write(name, content)
        return True


def test_without_conditional_requests_a_second_writer_is_noticed_by_reading(tmp_path):
    assert store_in(tmp_path).check_exclusive()
    first, second = (store_in(tmp_path, Forgetful(tmp_path)) for _ in range(2))
    assert not first.check_exclusive()
    assert not second.check_exclusive()
    made, _ = manifest(first)
    first.advance(made)
    second.advance(dataclasses.replace(made, generation=2, owner="you"))
    with pytest.raises(Fenced):
        first.advance(dataclasses.replace(made, generation=2))
    assert second.latest().owner == "you"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.6)
    monkeypatch.setattr(stores, "BEAT_SECONDS", 0.2)


@pytest.mark.parametrize("hours", [-1.0, 0.0, 1.0])
def test_a_command_is_alive_while_it_makes_generations_whatever_the_clocks_say(
    tmp_path, monkeypatch, quick, hours
):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    store.advance(made)
    monkeypatch.setattr(stores.time, "time", lambda: 1e9 + 3600 * hours)
    watch = LeaseWatch(store_in(tmp_path), made)
    store.advance(dataclasses.replace(made, generation=2))
    assert watch.is_alive(lambda: None)
    waited = []
    silent = LeaseWatch(store_in(tmp_path), store.latest())
    assert not silent.is_alive(lambda: waited.append(1))
    assert waited == [1]


def test_a_command_that_gives_the_run_free_is_not_waited_for(tmp_path, quick):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    store.advance(made)
    watch = LeaseWatch(store_in(tmp_path), made)
    store.advance(dataclasses.replace(made, generation=2, owner=""))
    assert not watch.is_alive(lambda: None)


def test_a_store_that_cannot_be_watched_is_an_error(tmp_path, quick):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    broken = Planned(FolderStorage(tmp_path), failing(lambda number: True, is_temporary=False))
    with pytest.raises(stores.StorageError):
        LeaseWatch(store_in(tmp_path, broken), made).is_alive(lambda: None)


def old(folder, digest, seconds):
    import os

    os.utime(folder / object_name(digest), times=(time.time() - seconds,) * 2)


def test_what_nothing_names_is_deleted_once_it_is_older_than_the_grace_period(tmp_path):
    store = store_in(tmp_path)
    made, changed = manifest(store)
    earlier, _ = manifest(store, ROWS[:2])
    store.set_aside(earlier)
    store.advance(made)
    young, lost = store.put(b"young"), store.put(b"of a killed command")
    named = changed["models/best/w"].pieces[0]
    for digest in (lost, named, made.batches[0].sha256, earlier.batches[0].sha256):
        old(tmp_path, digest, 100)
    assert collect(store, 50) == (1, len(b"of a killed command"))
    assert store.get(lost) is None
    assert store.get(young) == b"young"
    other = store_in(tmp_path)
    assert other.read_log(made).rows == ROWS
    assert other.read_log(earlier).rows == ROWS[:2]
    assert other.get(named) is not None
    assert not (tmp_path / "probe").exists() or not list((tmp_path / "probe").iterdir())


def test_ages_are_those_of_the_storages_clock(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    store.advance(made)
    store.put(b"just now")
    monkeypatch.setattr(time, "time", lambda: 4e9)  # A machine whose clock is decades ahead.
    assert collect(store, 50) == (0, 0)


def test_nothing_is_deleted_where_a_manifest_is_damaged(tmp_path):
    store = store_in(tmp_path)
    made, _ = manifest(store)
    store.advance(made)
    old(tmp_path, store.put(b"lost"), 100)
    (tmp_path / "manifest" / f"{1:010d}").write_bytes(b"{}")
    with pytest.raises(ConfigError):
        collect(store, 50)
    assert store.get(hashlib.sha256(b"lost").hexdigest()) == b"lost"
