"""Keep a run and its copy in a store consistent: ownership, download and upload."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.events import Emit, Event
from lepton_automl.core.object_storage import StorageError
from lepton_automl.core.units import bytes_text
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.errors import ConfigError, DataError, InfeasibleError, LeptonError, MachineError
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView, write_ledger
from lepton_automl.runs.live_status import STORE
from lepton_automl.runs.store import (
    BEAT_SECONDS,
    PIECE_BYTES,
    Fenced,
    FileEntry,
    LeaseWatch,
    Log,
    Manifest,
    Row,
    Store,
    chained,
    new_owner,
)
from lepton_automl.runs.store_copy import FOLDERS, TOP_FILES, StoreCopy

START_SECONDS = 30.0
"""Time for which a request is repeated."""
_OWNER_FILE = "ledger.store.json"
"""What this folder's last command was called in its store."""
_DOWNLOADS = 4
"""Objects that are read at the same time."""
_TRIES = 20
"""To take a run from a command that works on it."""
_EMPTY = Log([], [])


class StoredRun:
    """A run that is copied to a store, from the start of a command to its end.

    Parameters
    ----------
    url : str
        The store.
    folder : RunFolder
        The run here, which may not be there yet.
    takes_over : bool
        Take the run from a command that works on it.
    emit : callable
        Receives events.

    Raises
    ------
    ConfigError, MachineError
        If the store cannot be used, or the run in it is damaged.
    """

    def __init__(self, url: str, folder: RunFolder, *, takes_over: bool, emit: Emit) -> None:
        self._folder, self._emit, self._takes_over = folder, emit, takes_over
        self._watch: LeaseWatch | None = None
        with _for_users():
            self._store = Store.at(url, START_SECONDS)
            self._check_place()
            if not self._store.check_exclusive():
                text = "the store makes an object twice: two commands on one run are noticed late"
                emit(Event("store", f"warning: {self._store.place}: {text}"))
            self._manifest, self._log = self._store.latest_log()
        owner = "" if self._manifest is None else self._manifest.owner
        if self._manifest is not None and owner not in ("", self._last_owner()) and not takes_over:
            self._watch = LeaseWatch(self._store, self._manifest)

    @property
    def run_id(self) -> str:
        """`Definition.run_id` of the run in the store; empty without one."""
        return "" if self._manifest is None or not self._has_run else self._manifest.run_id

    @property
    def _has_run(self) -> bool:
        """Whether the store holds a run: a command may be killed before it has copied any."""
        return self._manifest is not None and bool(self._manifest.batches)

    def _check_place(self) -> None:
        """Refuse a store in the run folder: it is lost with it, and moved with `--fresh`."""
        place = Path(self._store.place)
        if place.is_absolute() and place.is_relative_to(files.real_path(self._folder.path)):
            raise ConfigError(
                f"the store {place} lies inside the run folder {self._folder.path}",
                fix="give a folder on another disk with --store",
            )

    def explained(self, error: DataError) -> DataError:
        """An error of data that cannot be opened, with what the run in the store needs."""
        if not self._has_run:
            return error
        known = self._definition()
        return DataError(
            f"{error.what}; the run in {self._store.place} was begun with the data {known.data}",
            fix=f"{error.fix}; the store holds decoded copies, no original: bring the same data to "
            "this machine, at any path",
        )

    def check(self, wanted: Definition, *, fresh: bool) -> None:
        """Check that the run in the store may be continued as `wanted`; waits until it is free.

        Raises
        ------
        ConfigError
            If another command works on it, or it is another run.
        MachineError
            If the store cannot be read.
        """
        if self._manifest is None:
            return
        place = self._store.place
        if not fresh and self._has_run:
            self._definition().check_same(wanted, place, "another --store")
            if self._folder.definition_file.exists():
                here = self._folder.definition().run_id
                if here != self.run_id:
                    raise ConfigError(
                        f"{self._folder.path} and {place} hold two runs with the same definition",
                        fix="give another folder with --out to continue that of the store, or "
                        "another --store to copy that of the folder",
                    )
        if self._watch is None:
            return
        host = self._manifest.host
        text = f"the last command on the run in {place} ({host}) has not given it free: watching "
        text += "whether it still works"
        with _for_users():
            is_alive = self._watch.is_alive(lambda: self._emit(Event("store", text)))
        if is_alive:
            raise ConfigError(
                f"another command works on the run in {place}, on the machine {host}",
                fix="wait for it or stop it, or give --take-over: then that one ends at its next "
                "event",
            )

    def take(self, *, fresh: bool) -> None:
        """Take the run for this command and bring here what the store is ahead.

        The folder's lock is held.

        Raises
        ------
        ConfigError
            If another command was faster, or folder and store have gone on separately.
        MachineError
            If the store cannot be used.
        """
        here = [] if fresh else _rows_here(self._folder)
        if not fresh:
            self._compare(here)
        owner, host = new_owner()
        with _for_users():
            if fresh and self._has_run:
                self._begin_anew(owner, host)
            else:
                self._continue(owner, host, here)
            content = {"place": self._store.place, "owner": owner, "lock": self._lock_text()}
            files.write_json(self._folder.path / _OWNER_FILE, content)
            if len(self._log.rows) >= len(here) and self._log.changes:
                self._bring(is_newer=len(here) < len(self._log.rows))

    @contextmanager
    def copied(self, ledger: Ledger, emit: Emit) -> Iterator[None]:
        """Copy the run until the block ends, and complete the copy then.

        Raises
        ------
        ConfigError
            If another command takes the run over.
        MachineError
            If the copy is not complete at the end.
        """
        assert self._manifest is not None, "`take` comes before"
        with _for_users():
            copy = StoreCopy(self._store, self._folder, ledger, self._manifest, self._log, emit)
        ledger.live_status.publish_from(STORE, copy.facts)
        copy.start()
        try:
            with ledger.watched(copy):
                yield
        except BaseException as error:
            self._end_early(copy, ledger, emit, error)
            raise
        copy.close(is_whole=True)

    def close(self) -> None:
        """Stop watching the store."""
        if self._watch is not None:
            self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _end_early(self, copy: StoreCopy, ledger: Ledger, emit: Emit, error: BaseException) -> None:
        try:
            copy.close(is_whole=False)
            if isinstance(error, InfeasibleError) and not ledger.all(EventKind.RUNG):
                self._store.discard()  # As the folder is.
        except (LeptonError, StorageError) as failed:
            if not isinstance(error, LeptonError) or error.what != failed.what:
                emit(Event("store", f"warning: {failed.what}"))

    def _definition(self) -> Definition:
        return read_definition(self._store, self._log)

    def _last_owner(self) -> str:
        """What the last command in this folder was called; empty where the folder is a copy."""
        path = self._folder.path / _OWNER_FILE
        if not path.is_file():
            return ""
        with contextlib.suppress(LeptonError, OSError):
            known = untrusted_files.read_json(path, fix="", top=dict)
            if (known.get("place"), known.get("lock")) == (self._store.place, self._lock_text()):
                return str(known.get("owner", ""))
        return ""

    def _lock_text(self) -> str:
        """Names the lock file of the folder: a copy of the folder has another one."""
        info = self._folder.lock_file.stat()
        return f"{info.st_dev}:{info.st_ino}"

    @property
    def _folder_run_id(self) -> str:
        return self._folder.definition().run_id

    def _compare(self, here: list[Row]) -> None:
        """Check that the events here are the first ones of the store, or the other way round.

        Raises
        ------
        ConfigError
            If each has events that the other has not.
        """
        there, count = self._log.rows, min(len(here), len(self._log.rows))
        if chained("", here[:count]) != chained("", there[:count]):
            raise ConfigError(
                f"{self._folder.path} and its copy in {self._store.place} have gone on "
                f"separately: {len(here)} events here, {len(there)} there",
                fix="give another folder with --out to continue that of the store; to continue "
                "that of the folder give another --store",
            )

    def _begin_anew(self, owner: str, host: str) -> None:
        """Set the run in the store aside for a new one."""
        assert self._manifest is not None
        name = self._store.set_aside(self._manifest)
        self._emit(Event("store", f"the earlier run in {self._store.place} is kept as {name}"))
        run_id, generation = self._folder_run_id, self._manifest.generation
        self._log = _EMPTY
        self._advance(Manifest(generation, run_id, owner, host, 0, "", 0.0, ()))

    def _continue(self, owner: str, host: str, here: list[Row]) -> None:
        """Become the command that works on the run in the store."""
        found = self._manifest
        # A command that the run is taken from makes generations until it notices.
        earlier = {"", found.owner} if found is not None and self._takes_over else {""}
        if found is None or not found.batches:
            generation, run_id = 0 if found is None else found.generation, self._folder_run_id
            self._manifest = found = Manifest(generation, run_id, owner, host, 0, "", 0.0, ())
        for _ in range(_TRIES):
            try:
                self._advance(dataclasses.replace(found, owner=owner, host=host))
            except Fenced:
                latest = self._store.latest()
                if latest is None or latest.owner not in earlier:
                    raise
                self._manifest = found = latest
                self._log = self._store.read_log(latest)
                self._compare(here)
            else:
                return
        raise MachineError(
            f"the run in {self._store.place} changes faster than it can be taken over",
            fix="stop the command that works on it, then run the same command",
        )

    def _advance(self, manifest: Manifest) -> None:
        made = dataclasses.replace(manifest, generation=manifest.generation + 1)
        self._store.advance(made)
        self._manifest = made

    def _bring(self, *, is_newer: bool) -> None:
        """Write ledger and files of the store into the folder.

        `is_newer`: files that are here are those of an older state.
        """
        assert self._manifest is not None
        entries = {path: _checked_path(path) for path in self._log.files}
        if is_newer:
            write_ledger(
                self._folder.ledger, self.run_id, self._log.rows, self._manifest.alive_seconds
            )
            self._delete_superseded()
        missing = [
            self._log.files[path]
            for path in entries
            if path != "run.toml" and not self._is_here(self._log.files[path], is_newer=is_newer)
        ]
        self._check_space(sum(entry.size for entry in missing))
        # What makes another file complete comes last (`Model.save`, the seal of an artifact).
        missing.sort(key=lambda entry: entry.path.rpartition("/")[2] in _LAST)
        lost = self._fetch(missing)
        size = sum(entry.size for entry in missing)
        text = f"{len(self._log.rows)} events and {len(missing) - lost} files ({size:,} bytes) of "
        text += f"the run in {self._store.place} are here"
        if lost:
            text += f"; {lost} are missing or damaged there and are made again"
        if is_newer or missing:
            self._emit(Event("store", text))

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder.path).free
        if needed > free:
            raise MachineError(
                f"the files of the run in {self._store.place} have {bytes_text(needed)}, the disk "
                f"of {self._folder.path} has {bytes_text(free)} left",
                fix="free some space or give another folder with --out, then run the same command",
            )

    def _delete_superseded(self) -> None:
        """Delete checkpoints of an older state of the run that the store no longer has."""
        kept = {path.split("/")[1] for path in self._log.files if path.startswith("checkpoints/")}
        for folder in self._folder.checkpoints.glob("[0-9]*-*"):
            if folder.name not in kept:
                files.remove(folder / _LAST[0])  # First: the rest is not a model.
                files.remove_folder(folder)

    def _fetch(self, entries: list[FileEntry]) -> int:
        """Write files of the store into the folder; how many are missing or damaged there."""
        lost = 0
        with ThreadPoolExecutor(_DOWNLOADS, "store download") as pool:
            waiting: set[Future[bool]] = {pool.submit(self._write, entry) for entry in entries}
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, BEAT_SECONDS)
                try:
                    lost += sum(not each.result() for each in done)
                    if waiting and self._manifest is not None:
                        self._advance(self._manifest)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return lost

    def _write(self, entry: FileEntry) -> bool:
        path = self._folder.path / entry.path
        try:
            files.write_chunks(path, content_of(self._store, entry))
        except LostContent:
            return False
        return True

    def _is_here(self, entry: FileEntry, *, is_newer: bool) -> bool:
        path = self._folder.path / entry.path
        if not path.is_file():
            return False
        if not is_newer:
            return True
        with contextlib.suppress(LeptonError):
            return untrusted_files.sha256(path, ARRAYS, fix="") == entry.sha256
        return False


class LostContent(Exception):
    """An object is missing or damaged."""


_LAST = ("weights.safetensors", "recipe.json", "manifest.json")
"""Names of files that make a folder complete."""


def content_of(store: Store, entry: FileEntry) -> Iterator[bytes]:
    """Content of a file piece by piece, checked against its digests.

    Raises
    ------
    LostContent
        If an object is missing or damaged; pieces before it may have been given.
    StorageError
        If the store cannot be read.
    """
    if entry.content is not None:
        content = entry.content.encode()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise LostContent
        yield content
        return
    digest, size = hashlib.sha256(), 0
    for piece in entry.pieces:
        content = store.get(piece, PIECE_BYTES) or b""
        size += len(content)
        if not content or size > entry.size:
            raise LostContent
        digest.update(content)
        yield content
    if digest.hexdigest() != entry.sha256:
        raise LostContent


def read_definition(store: Store, log: Log) -> Definition:
    """The definition of the run in a store.

    Raises
    ------
    ConfigError
        If it is missing or damaged.
    """
    entry = log.files.get("run.toml")
    try:
        if entry is None:
            raise ValueError("it is missing")
        content = b"".join(content_of(store, entry))
        return Definition.from_toml(content.decode("utf-8", "surrogateescape"))
    except (LostContent, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"the definition of the run in {store.place} cannot be read: "
            f"{error or 'it is damaged'}",
            fix="continue in the run folder on its last machine, or give another --store",
        ) from error


def _rows_here(folder: RunFolder) -> list[Row]:
    if not folder.ledger.exists():
        return []
    try:
        with LedgerView(folder.ledger) as ledger:
            return ledger.rows_after(0)
    except DataError:  # Nothing was recorded yet.
        return []


def _checked_path(path: str) -> str:
    """Refuse a path that is not that of a file of a run.

    Raises
    ------
    ConfigError
        If it is not.
    """
    parts = path.split("/")
    is_odd = any(part in ("", ".", "..") or not part.isprintable() for part in parts)
    is_known = path in TOP_FILES or (len(parts) > 1 and parts[0] in FOLDERS)
    if is_odd or not is_known or "\\" in path:
        raise ConfigError(
            f"the store names the file {path!r}, which is not a file of a run",
            fix="give another --store; another program has changed this one",
        )
    return path


@contextmanager
def _for_users() -> Iterator[None]:
    """Turn an error of the storage into one of the command."""
    try:
        yield
    except StorageError as error:
        raise error.as_machine_error() from error
    except Fenced as error:
        raise ConfigError(
            f"another command{f' on {error.host}' if error.host else ''} has taken the run in the "
            "store",
            fix="wait for it or stop it, or give --take-over",
        ) from error
