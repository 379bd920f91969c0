"""Copy a run to its store while it works: events, checkpoints, models, decoded data, artifact.

The copy is made by a thread of the command. A store that is down stops neither the search nor the
command before its end; what was not copied then is said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.events import Emit, Event
from lepton_automl.core.object_storage import StorageError
from lepton_automl.core.untrusted_files import ARRAYS, may_be_whole
from lepton_automl.errors import ConfigError, LeptonError, MachineError, first_line
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.runs.store import (
    BEAT_SECONDS,
    FANOUT,
    PIECE_BYTES,
    Batch,
    Fenced,
    FileEntry,
    Log,
    Manifest,
    Row,
    Store,
    chained,
    collect,
    write_batches,
)

TOP_FILES = (
    *("run.toml", "space.toml", "board.toml", "latency_table.json"),
    *("front.svg", "compression.svg"),
)
FOLDERS = ("checkpoints", "models", "artifact", "cache")
"""What of a run folder is copied."""
_NOT_COPIED = (".state", ".partial", ".blocks", ".lock", ".log")
"""Ends of names that mean something on one machine only."""
_FOLD_FILES = "fold-"
"""First letters of cache files that are made again from others (`data.folds`)."""
_WEIGHTS, _RESUME = "weights.safetensors", "resume.safetensors"
"""The file of a checkpoint that is written last; the state of a training that is not finished."""
_RESUME_SECONDS = 120.0
"""Age of the copy of such a state at least, before it is copied again."""
_SCAN_SECONDS = 60.0
"""After which all checkpoints are looked at again."""
_SETTLED_NS = 2_000_000_000
"""Age of a change from which on a second one has another time in every file system."""
_TRIES = 10
"""To find the files of a run in one state."""
_INLINE_BYTES = 4096
"""Files of text up to this size are in the log itself."""
_PAUSE_SECONDS = 1.0
"""At least, between two generations."""
_BULK_SECONDS = 2.0
"""Time for decoded data between two generations."""
_GRACE_SECONDS = 600.0
"""Age of an object that nothing names any more before it is deleted while the command works."""
FOREIGN_GRACE_SECONDS = 86400.0
"""The same of an object that another command has left."""
END_SECONDS = 60.0
"""Time without progress after which the end of a command gives up."""
_INTERRUPTED_SECONDS = 10.0
"""The same after an error or Ctrl-C."""
_SOON_SECONDS = 2.0
"""Time after which the end of a command says that it waits."""
_LONGEST_WAIT, _LAST_WAIT = 30.0, 2.0
"""Seconds between two tries while the store is down; at the end of the command."""

State = tuple[int, int, int, int]
"""Inode, bytes, and times in nanoseconds of a file."""


class StoreCopy:
    """Copies a run to its store from a thread, until it is closed.

    Parameters
    ----------
    store : Store
        The store.
    folder : RunFolder
        The run, whose lock is held.
    ledger : Ledger
        Its ledger, with all events of the last generation.
    manifest : Manifest
        The last generation, made by this command.
    log : Log
        What it says.
    emit : callable
        Receives an event when the store fails, and when it works again, in the thread that
        records events.
    """

    def __init__(
        self,
        store: Store,
        folder: RunFolder,
        ledger: Ledger,
        manifest: Manifest,
        log: Log,
        emit: Emit,
    ) -> None:
        self._store, self._folder, self._ledger, self._emit = store, folder, ledger, emit
        self._manifest, self._changes = manifest, list(log.changes)
        self._table = log.files
        rows = ledger.rows_after(0)
        self._seq = rows[manifest.events - 1][0] if manifest.events else 0
        self._known_events = len(rows)
        self._inside: dict[str, set[str]] = {}
        self._of_trial: dict[str, set[str]] = {}
        for path in self._table:
            self._remember(path)
        self._scanned = -math.inf
        self._states: dict[str, State] = {}
        self._resumed: dict[str, float] = {}
        store.known.update(self._named())
        self._unnamed: dict[str, float] = {}
        self._open_pieces = set[str]()
        self._folders: dict[str, tuple[int, list[tuple[str, State]]]] = {}
        self._pending: dict[str, FileEntry | None] = {}
        self._bulk: Iterator[None] | None = None
        self._missing_files = 0
        self._wake, self._stop = threading.Event(), threading.Event()
        self._failure: StorageError | None = None
        self._reported = ""
        self._fenced: Fenced | None = None
        self._bug: BaseException | None = None
        self._is_whole = True
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="store copy", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._wake.set()
        self._thread.start()

    def __call__(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Take note of a new event of the ledger.

        Raises
        ------
        ConfigError
            If another command has taken the run over.
        """
        del kind, key, value
        self._known_events += 1
        self._wake.set()
        self.check()
        self._report()

    def check(self) -> None:
        """Check that no other command has taken the run over.

        Raises
        ------
        ConfigError
            If one has.
        """
        if self._fenced is not None:
            host = f" on {self._fenced.host}" if self._fenced.host else ""
            raise ConfigError(
                f"the run was taken over by another command{host}: it continues from the copy in "
                f"{self._store.place}, and what this command did after that copy is not part of it",
                fix=f"follow it there; to bring the run back here, stop it there and give the same "
                f"command with another --out, or move {self._folder.path} away",
            )

    def facts(self) -> dict[str, Any]:
        """What `lepton status` shows of the copy."""
        storage = self._store.storage
        return {
            "place": self._store.place,
            "generation": self._manifest.generation,
            "events_behind": max(0, self._known_events - self._manifest.events),
            "files_behind": self._missing_files,
            "bytes_written": storage.bytes_written,
            "bytes_read": storage.bytes_read,
            "requests": storage.requests,
            "error": "" if self._failure is None else self._failure.what,
        }

    def close(self, *, is_whole: bool) -> None:
        """Copy what is missing, and give the run free for other commands.

        Parameters
        ----------
        is_whole : bool
            Whether the command has done its work; else less time is spent.

        Raises
        ------
        ConfigError
            If another command has taken the run over.
        MachineError
            If the copy is not complete.
        """
        self._is_whole, self._progress = is_whole, time.monotonic()
        self._stop.set()
        self._wake.set()
        if not is_whole:
            self._store.storage.is_ending.set()
        self._thread.join(_SOON_SECONDS)
        if self._thread.is_alive():
            self._emit(Event("store", f"copying what is missing to {self._store.place}"))
        self._thread.join()
        if self._bug is not None:
            raise self._bug
        self.check()
        if self._failure is not None:
            behind = self.facts()
            raise MachineError(
                f"the copy in {self._store.place} is not complete: {behind['events_behind']} "
                f"events and {behind['files_behind']} files are missing; {self._failure.what}; "
                f"everything is in {self._folder.path}",
                fix=f"{self._failure.fix}: it completes the copy",
            )

    def _report(self) -> None:
        what = "" if self._failure is None else self._failure.what
        if self._bug is not None:
            reason = f"{type(self._bug).__name__}: {first_line(self._bug)}"
            what = f"the copy in {self._store.place} has ended by an error: {reason}"
        if what and not self._reported:
            text = f"warning: {what}; the run continues, and what is missing there is copied later"
            self._emit(Event("store", text))
        elif self._reported and not what:
            self._emit(Event("store", f"the copy in {self._store.place} goes on"))
        self._reported = what

    def _work(self) -> None:
        pause = _PAUSE_SECONDS
        try:
            while not self._try(is_last=self._stop.is_set()):
                is_last, is_down = self._stop.is_set(), self._failure is not None
                pause = min(2 * pause, _LONGEST_WAIT) if is_down else _PAUSE_SECONDS
                if is_last:
                    time.sleep(min(pause, _LAST_WAIT) if is_down else 0.0)
                    continue
                self._stop.wait(pause)
                if self._bulk is None:
                    self._wake.wait(BEAT_SECONDS - _PAUSE_SECONDS)
                self._wake.clear()
        except Fenced as error:
            self._fenced = error
        except BaseException as error:  # noqa: BLE001  (raised again at the end)
            self._bug = error

    def _try(self, *, is_last: bool) -> bool:
        """Copy what is new; whether that was all, or the end of the command gives up."""
        try:
            is_complete = self._copy(is_last=is_last)
        except StorageError as error:
            self._failure = error
            patience = END_SECONDS if self._is_whole else _INTERRUPTED_SECONDS
            is_over = time.monotonic() - self._progress > patience
            return is_last and (is_over or not error.is_temporary)
        self._failure = None
        return is_complete

    def _copy(self, *, is_last: bool) -> bool:
        """Copy what is new and make a generation.

        Returns
        -------
        bool
            Whether nothing is missing any more.
        """
        rows = self._ledger.rows_after(self._seq)
        folders = self._changed_folders(rows, is_last=is_last)
        found, has_new = self._copy_files(folders)
        for _ in range(_TRIES):
            more = self._ledger.rows_after(self._seq)
            is_same = not has_new or _small(found) == _small(dict(self._found(folders)))
            if len(more) == len(rows) and is_same:
                break
            # Files that belong together may be of two states, and a checkpoint may have been
            # deleted for the sake of an event that came meanwhile.
            rows, folders = more, self._changed_folders(more, is_last=folders is None)
            found, has_new = self._copy_files(folders)
        if is_last and not self._is_whole:
            self._bulk = None
        else:
            self._copy_bulk(found)
        self._add(rows)
        if folders is None:
            self._note_unnamed()
        self._delete_unnamed(_GRACE_SECONDS)
        if not is_last or self._bulk is not None:
            return False
        if self._is_whole:
            self._delete_unnamed(0.0)
            with contextlib.suppress(StorageError):
                collect(self._store, FOREIGN_GRACE_SECONDS)
        self._add([], owner="")
        return True

    def _changed_folders(self, rows: list[Row], *, is_last: bool) -> set[str] | None:
        """Names of checkpoints that events may have changed; None: all are looked at.

        With thousands of checkpoints that takes longer than an event may, so that it is done once a
        minute; meanwhile it is done for the trials whose trainings have ended.
        """
        now = time.monotonic()
        if is_last or now - self._scanned > _SCAN_SECONDS:
            self._scanned = now
            return None
        names = set[str]()
        for _, _, key, _, _ in rows:
            trial, _, label = key.partition("-")
            if trial.isdecimal() and label:
                names |= {f"{int(trial):05d}-{label}", *self._of_trial.get(f"{int(trial):05d}", ())}
        return names

    def _copy_files(self, folders: set[str] | None) -> tuple[dict[str, State], bool]:
        """Store the files that are new or changed, but decoded data.

        Returns
        -------
        dict of str to State
            The files that were looked at.
        bool
            Whether one was new.
        """
        found = dict(self._found(folders))
        of_all = [*self._table, *self._pending]
        known = (
            of_all
            if folders is None
            else self._inside.get("", set()).union(
                *(self._inside.get(name, ()) for name in folders)
            )
        )
        for path in known:
            if path not in found and self._known_entry(path) is not None:
                self._pending[path] = None
                self._states.pop(path, None)
        new = self._new(found)
        self._missing_files = len(new)
        small = [path for path in new if not _is_bulk(path)]
        for _ in self._each(small, found):
            pass
        return found, bool(small)

    def _known_entry(self, path: str) -> FileEntry | None:
        return self._pending[path] if path in self._pending else self._table.get(path)

    def _copy_bulk(self, found: Mapping[str, State]) -> None:
        """Store decoded data, for a while only: the rest comes after the next generation."""
        if self._bulk is None:
            self._bulk = self._each([path for path in self._new(found) if _is_bulk(path)], found)
        end = time.monotonic() + _BULK_SECONDS
        try:
            for _ in self._bulk:
                if time.monotonic() > end or self._wake.is_set():
                    return
        except BaseException:
            self._bulk = None
            raise
        self._bulk = None

    def _new(self, found: Mapping[str, State]) -> list[str]:
        return [path for path, state in found.items() if self._states.get(path) != state]

    def _each(self, paths: list[str], found: Mapping[str, State]) -> Iterator[None]:
        """Store files, and yield after each piece."""
        for path in paths:
            for entry in self._stored(path):
                if entry is not None:
                    self._states[path] = found[path]
                    self._missing_files -= 1
                    self._pending[path] = entry
                    self._remember(path)
                    self._open_pieces.difference_update(entry.pieces)
                yield

    def _stored(self, path: str) -> Iterator[FileEntry | None]:
        """Store a file: None after each piece, at last its entry; nothing where it is gone.

        Raises
        ------
        StorageError
            If the machine does not let the file be read, or the store fails.
        """
        place, known = self._folder.path / path, self._table.get(path)
        if known is not None and path.startswith("cache/") and _has_digest(place, known):
            yield known
            return
        try:
            file = untrusted_files.open_file(place, ARRAYS, fix="")
        except LeptonError as error:
            if may_be_whole(error):
                raise _unreadable(error.what) from error
            return
        digest, pieces, size = hashlib.sha256(), list[str](), 0
        with file, _reading(place):
            if os.fstat(file.fileno()).st_size <= _INLINE_BYTES:
                content = file.read()
                if (text := _as_text(content)) is not None:
                    digest.update(content)
                    yield FileEntry(path, len(content), digest.hexdigest(), (), text)
                    return
                file.seek(0)
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
                pieces.append(self._store.put(piece))
                self._open_pieces.add(pieces[-1])
                self._progress = time.monotonic()
                yield None
        yield FileEntry(path, size, digest.hexdigest(), tuple(pieces))

    def _add(self, rows: list[Row], owner: str | None = None) -> None:
        """Add entries to the log and make a generation."""
        manifest = self._manifest
        changes = {
            path: entry for path, entry in self._pending.items() if self._table.get(path) != entry
        }
        batches, added = list(manifest.batches), list(self._changes)
        for batch, own in write_batches(self._store, rows, changes):
            batches.append(batch)
            added.append(own)
        while (start := _full_level(batches)) is not None:
            level = batches[start].level + 1
            firsts = [batch.first for batch in batches[start:] if batch.first]
            own_rows = self._rows(min(firsts), rows) if firsts else []
            own = _last_of(added[start:], is_first=start == 0)
            batches, added = batches[:start], added[:start]
            for batch, changed in write_batches(self._store, own_rows, own, level):
                batches.append(batch)
                added.append(changed)
        new = dataclasses.replace(
            manifest,
            generation=manifest.generation + 1,
            owner=manifest.owner if owner is None else owner,
            events=manifest.events + len(rows),
            digest=chained(manifest.digest, rows),
            alive_seconds=float(self._ledger.alive_seconds()),
            batches=tuple(batches),
        )
        self._store.advance(new)
        self._manifest, self._changes = new, added
        self._seq = rows[-1][0] if rows else self._seq
        self._pending = {}
        self._progress = time.monotonic()
        self._update(changes)

    def _rows(self, first: int, last: list[Row]) -> list[Row]:
        end = last[-1][0] if last else self._seq
        return [row for row in self._ledger.rows_after(first - 1) if row[0] <= end]

    def _update(self, changes: Mapping[str, FileEntry | None]) -> None:
        """Follow changed files."""
        for path, entry in changes.items():
            if entry is None:
                self._table.pop(path, None)
                self._inside.get(_checkpoint(path), set()).discard(path)
            else:
                self._table[path] = entry

    def _note_unnamed(self) -> None:
        """Note since when objects are not named any more."""
        now, named = time.monotonic(), self._named() | self._open_pieces
        self._unnamed = {
            digest: self._unnamed.get(digest, now) for digest in self._store.known - named
        }

    def _remember(self, path: str) -> None:
        """Find the path by its checkpoint, and that by its trial."""
        name = _checkpoint(path)
        self._inside.setdefault(name, set()).add(path)
        if name:
            self._of_trial.setdefault(name.partition("-")[0], set()).add(name)

    def _named(self) -> set[str]:
        """Digests of the objects that the last generation names."""
        named = {batch.sha256 for batch in self._manifest.batches}
        return named.union(*(entry.pieces for entry in self._table.values()))

    def _delete_unnamed(self, age: float) -> None:
        before = time.monotonic() - age
        self._store.remove([digest for digest, since in self._unnamed.items() if since <= before])

    def _found(self, folders: set[str] | None) -> Iterator[tuple[str, State]]:
        """Files to be copied with their states; of checkpoints those in `folders`, None: all."""
        root = self._folder.path
        for name in TOP_FILES:
            with contextlib.suppress(OSError):
                yield name, _state(os.stat(root / name))  # noqa: PTH116
        for name in FOLDERS:
            if name != "checkpoints":
                yield from _files_below(root / name, name)
        with contextlib.suppress(OSError):
            if folders is None:
                folders = {each.name for each in os.scandir(root / "checkpoints")}
            for name in folders:
                yield from self._checkpoint_files(root / "checkpoints" / name)

    def _checkpoint_files(self, folder: Path) -> Iterator[tuple[str, State]]:
        """Files of a complete checkpoint, or the state of a training that is not finished."""
        own, inside = f"checkpoints/{folder.name}", list[tuple[str, State]]()
        with contextlib.suppress(OSError):
            changed = folder.stat().st_mtime_ns
            since, inside = self._folders.get(folder.name, (0, inside))
            if since != changed:
                inside = list(_files_below(folder, own))
                # Files are replaced, never changed: then the time of the folder is another one, if
                # it is old enough to tell.
                is_old = time.time_ns() - changed > _SETTLED_NS
                self._folders[folder.name] = (changed if is_old else 0, inside)
        states = dict(inside)
        if f"{own}/{_WEIGHTS}" in states:
            yield from inside
        elif (state := states.get(f"{own}/{_RESUME}")) is not None:
            yield f"{own}/{_RESUME}", self._throttled(f"{own}/{_RESUME}", state)

    def _throttled(self, path: str, state: State) -> State:
        """The state of a file that changes often; the old one where it was copied just before."""
        now, last = time.monotonic(), self._resumed.get(path)
        if last is not None and now - last < _RESUME_SECONDS and path in self._states:
            return self._states[path]
        self._resumed[path] = now
        return state


def _checkpoint(path: str) -> str:
    """Name of the checkpoint that a file is of; empty for other files."""
    return path.split("/")[1] if path.startswith("checkpoints/") else ""


def _is_bulk(path: str) -> bool:
    return path.startswith("cache/")


def _small(found: Mapping[str, State]) -> dict[str, State]:
    return {path: state for path, state in found.items() if not _is_bulk(path)}


def _full_level(batches: list[Batch]) -> int | None:
    """Where the last `FANOUT` batches, all of one level, begin; None if they are not."""
    start = len(batches) - FANOUT
    is_full = start >= 0 and len({batch.level for batch in batches[start:]}) == 1
    return start if is_full else None


def _last_of(
    changes: list[dict[str, FileEntry | None]], *, is_first: bool
) -> dict[str, FileEntry | None]:
    """Last change of each path; what was deleted is left out where nothing is before it."""
    merged: dict[str, FileEntry | None] = {}
    for changed in changes:
        merged |= changed
    if is_first:
        return {path: entry for path, entry in merged.items() if entry is not None}
    return merged


def _files_below(folder: Path, name: str) -> Iterator[tuple[str, State]]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        below = Path(place).relative_to(folder).as_posix()
        prefix = name if below == "." else f"{name}/{below}"
        for each in sorted(names):
            is_own = each.endswith(_NOT_COPIED) or files.is_leftover(Path(each))
            if is_own or (name == "cache" and each.startswith(_FOLD_FILES)):
                continue
            with contextlib.suppress(OSError):
                yield f"{prefix}/{each}", _state(os.stat(Path(place, each)))  # noqa: PTH116


def _state(info: os.stat_result) -> State:
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


@contextlib.contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Turn an OSError within the block into a StorageError about a file of the run."""
    try:
        yield
    except OSError as error:
        raise _unreadable(f"{place} cannot be read: {error.strerror or error}") from error


def _unreadable(what: str) -> StorageError:
    fix = "check the disk and the rights, then run the same command"
    return StorageError(what, fix=fix, is_temporary=True)


def _as_text(content: bytes) -> str | None:
    """Content as text that JSON can hold and gives back; None where it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _has_digest(place: Path, known: FileEntry) -> bool:
    """Whether a cache file has the size and the digest beside it of an entry."""
    beside = place.with_name(f"{place.name}.sha256")
    with contextlib.suppress(LeptonError, OSError):
        line = untrusted_files.read_text(beside, fix="")
        return place.stat().st_size == known.size and line.startswith(known.sha256)
    return False
