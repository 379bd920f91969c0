"""A run in object storage: content-addressed objects, their log, and the command that owns it.

    objects/ab/abcd...    content; the name is its SHA-256
    manifest/0000000017   generation 17: batches of the log, events, who works on the run

The log holds the events of the ledger and the files of the run folder. It is written in batches;
sixteen batches of a level become one of the next (a log-structured merge, O'Neil et al. 1996), so
that an event is written a few times only and the manifest stays small. A generation is made once,
after everything it names, by a request that fails if it exists (as the log of Delta Lake,
Armbrust et al. 2020): whoever fails has lost the run to another command.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lepton_automl.core import untrusted_files
from lepton_automl.core.field_types import check_types
from lepton_automl.core.object_storage import (
    RetryingStorage,
    StorageError,
    open_storage,
    remove_all,
)
from lepton_automl.errors import ConfigError, DataError, first_line

FORMAT = 1
PIECE_BYTES = 16 << 20
"""Size of the objects that a larger file is cut into."""
BATCH_BYTES = 8 << 20
"""Text of a batch of the log at most, unless one entry is larger."""
_MOST_BATCHES = 4096
"""Batches of a manifest that is read: 32 GiB of text."""
_MOST_LINE_BYTES = 128 << 20
"""Text of the largest entry that is read."""
_MOST_LOG_BYTES, _MOST_LOG_RATIO = 256 << 20, 200
"""Text of a log that is read in any case; of a larger one at most so many times its packed size."""
_BLOCK_BYTES = 1 << 20
_MANIFEST_BYTES = 16 << 20
FANOUT = 16
"""Batches of a level that become one of the next level."""
BEAT_SECONDS = 4.0
"""At most so long after a generation, the command at work makes the next one."""
PATIENCE_SECONDS = 15.0
"""A run whose generation has not changed for so long has lost its command."""
KEPT = 16
"""Generations that are kept beside the last one."""
_UNSURE_SECONDS = PATIENCE_SECONDS / 2
"""Time without a generation after which the next one is checked to be the last."""
_MANIFESTS, _OBJECTS, _ASIDE = "manifest", "objects", "aside"
_GENERATION = re.compile(rf"{_MANIFESTS}/(\d{{10}})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Row = tuple[int, str, str, str, float]
"""seq, kind, key, value and time of a ledger event."""


class Fenced(Exception):
    """Another command has taken the run over."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


@dataclass(frozen=True)
class FileEntry:
    """A file of the run folder."""

    path: str
    """Relative, with `/`."""
    size: int
    sha256: str
    pieces: tuple[str, ...]
    """SHA-256 of the objects that it consists of; empty where `content` holds it."""
    content: str | None = None
    """Its text, where it is small."""


@dataclass(frozen=True)
class Batch:
    """Some consecutive entries of the log, in one object."""

    sha256: str
    size: int
    """Bytes of the object."""
    level: int
    first: int
    last: int
    """`seq` of its first and last event; 0 and 0 without one."""


@dataclass(frozen=True)
class Manifest:
    """A generation of the run."""

    generation: int
    run_id: str
    owner: str
    """Random text of the command at work; empty where none works on the run."""
    host: str
    """Name of its machine."""
    events: int
    digest: str
    """Of all events in their order (`chained`)."""
    alive_seconds: float
    """Seconds that commands have worked on the run."""
    batches: tuple[Batch, ...]

    def to_json(self) -> str:
        """The text of the object, with a digest of itself."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        text = json.dumps(document, separators=(",", ":"))
        return json.dumps(document | {"sha256": _sha256(text.encode())}, separators=(",", ":"))

    @classmethod
    def from_json(cls, content: bytes, place: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ConfigError
            If it is damaged, or of another version.
        """
        fix = "give another --store; on its last machine the run folder continues without it"
        document = untrusted_files.parse_json(content, place, fix=fix, top=dict, error=ConfigError)
        try:
            known = document.pop("sha256", None)
            if document.get("format") != FORMAT:
                raise ValueError(f"its format is {document.get('format')!r}, {FORMAT} is read")
            if known != _sha256(json.dumps(document, separators=(",", ":")).encode()):
                raise ValueError("it was changed: its digest is not that of its content")
            del document["format"]
            batches = tuple(Batch(**each) for each in document.pop("batches"))
            made = cls(**document, batches=batches)
            check_types(made)
            if not all(_SHA256.fullmatch(each.sha256) for each in batches):
                raise ValueError("a digest has no 64 digits")
            if len(batches) > _MOST_BATCHES:
                raise ValueError(f"it has more than {_MOST_BATCHES} batches")
            counts = [n for each in batches for n in dataclasses.astuple(each)[1:]]
            if not all(map(_is_count, (made.generation, made.events, *counts))):
                raise ValueError("a number is not whole, or below 0")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{place} is not a manifest of a run: {error}", fix=fix) from error
        return made


@dataclass(frozen=True)
class Log:
    """What the batches of a manifest say."""

    rows: list[Row]
    """The events, by `seq`."""
    changes: list[dict[str, FileEntry | None]]
    """Changed files of each batch by path; None: deleted."""

    @property
    def files(self) -> dict[str, FileEntry]:
        """The files of the run folder by path."""
        known: dict[str, FileEntry | None] = {}
        for changed in self.changes:
            known |= changed
        return {path: entry for path, entry in known.items() if entry is not None}


class Store:
    """A run in an object storage.

    Parameters
    ----------
    storage : RetryingStorage
        Where it is.
    """

    def __init__(self, storage: RetryingStorage) -> None:
        self.storage, self.place = storage, storage.place
        self.known = set[str]()
        """Digests of objects that this process has written, or that it knows to be named."""
        self._advanced: float | None = None
        self._is_exclusive = True

    @classmethod
    def at(cls, url: str, seconds: float) -> Self:
        """The store at a URL, whose requests are repeated for `seconds`.

        Raises
        ------
        ConfigError, MachineError
            As `open_storage`.
        """
        return cls(RetryingStorage(open_storage(url), seconds))

    def check_exclusive(self) -> bool:
        """Whether the storage refuses to make an object twice; else `advance` reads it again."""
        name = f"probe/{secrets.token_hex(8)}"
        self.storage.create(name, b"1")
        self._is_exclusive = not self.storage.create(name, b"2")
        self.storage.remove(name)
        return self._is_exclusive

    def put(self, content: bytes) -> str:
        """Store an object, unless this process knows that it is there; its SHA-256."""
        digest = _sha256(content)
        if digest not in self.known:
            self.storage.write(object_name(digest), content)
            self.known.add(digest)
        return digest

    def get(self, digest: str, most: int = PIECE_BYTES) -> bytes | None:
        """An object whose content has this digest; None where it is missing or damaged."""
        content = self.storage.read(object_name(digest), most)
        if content is None or len(content) > most or _sha256(content) != digest:
            self.known.discard(digest)
            return None
        return content

    def remove(self, digests: Iterable[str]) -> None:
        """Delete objects that no generation names any more."""
        for digest in digests:
            self.known.discard(digest)
            self.storage.remove(object_name(digest))

    def generations(self) -> list[int]:
        """Numbers of the generations, the last one last."""
        names = (_GENERATION.fullmatch(each.name) for each in self.storage.objects(_MANIFESTS))
        return sorted(int(name[1]) for name in names if name)

    def latest(self) -> Manifest | None:
        """The last generation; None where the store holds no run.

        Raises
        ------
        ConfigError
            If it is damaged.
        """
        for number in reversed(self.generations()):
            name = _manifest_name(number)
            content = self.storage.read(name, _MANIFEST_BYTES)
            # An empty one is that of a writer that died on a disk without hard links.
            if content:
                return Manifest.from_json(content, f"{self.place}/{name}")
        return None

    def latest_log(self) -> tuple[Manifest | None, Log]:
        """The last generation and what it says; none and nothing where the store holds no run.

        Raises
        ------
        ConfigError
            As `latest` and `read_log`.
        """
        manifest = self.latest()
        while manifest is not None:
            try:
                return manifest, self.read_log(manifest)
            except ConfigError:
                # A command at work may have deleted what only earlier generations name.
                latest = self.latest()
                if latest is None or latest.generation == manifest.generation:
                    raise
                manifest = latest
        return None, Log([], [])

    def advance(self, manifest: Manifest) -> None:
        """Make a generation; everything that it names is stored.

        Raises
        ------
        Fenced
            If another command has made it, or a later one.
        """
        name, content = _manifest_name(manifest.generation), manifest.to_json().encode()
        if not self._is_exclusive and self.storage.read(name, len(content)) not in (None, content):
            raise self._fenced()
        if not self.storage.create(name, content):
            raise self._fenced()
        now = _now()
        was_away = self._advanced is None or now - self._advanced > _UNSURE_SECONDS
        if was_away or not self._is_exclusive:
            # The generation may be one that a later command has made and deleted.
            if self.generations()[-1] > manifest.generation:
                raise self._fenced()
            if self.storage.read(name, len(content)) != content:
                raise self._fenced()
        self._advanced = now
        if manifest.generation % KEPT == 0:
            last = manifest.generation - KEPT
            for number in range(max(1, last - KEPT), last):
                self.storage.remove(_manifest_name(number))

    def _fenced(self) -> Fenced:
        latest = self.latest()
        return Fenced("" if latest is None else latest.host)

    def discard(self) -> None:
        """Delete the generations: the run has trained nothing."""
        remove_all(self.storage, [_manifest_name(number) for number in self.generations()])

    def set_aside(self, manifest: Manifest) -> str:
        """Keep a copy of a generation for another run's sake; its name."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        name = f"{_ASIDE}/{stamp}-{manifest.run_id}"
        self.storage.write(name, manifest.to_json().encode())
        return name

    def read_log(self, manifest: Manifest) -> Log:
        """Events and files of a generation.

        Raises
        ------
        ConfigError
            If a batch is missing or damaged, or the events are not those that were recorded.
        """
        rows, changes, size, packed, seen = list[Row](), [], 0, 0, set[str]()
        for batch in manifest.batches:
            content = self.get(batch.sha256, batch.size)
            if content is None:
                raise self._damaged(f"the object {batch.sha256} of its log is missing or damaged")
            packed += 0 if batch.sha256 in seen else len(content)
            seen.add(batch.sha256)
            most = max(_MOST_LOG_BYTES, _MOST_LOG_RATIO * packed) - size
            try:
                own, changed, added = _parse_batch(content, most)
            except (ValueError, TypeError, LookupError, DataError, zlib.error) as error:
                what = f"the object {batch.sha256} is not part of a log: {first_line(error)}"
                raise self._damaged(what) from error
            if (batch.first, batch.last) != ((own[0][0], own[-1][0]) if own else (0, 0)):
                raise self._damaged(f"the object {batch.sha256} holds other events than are named")
            rows += own
            changes.append(changed)
            size += added
        if any(before[0] >= row[0] for before, row in itertools.pairwise(rows)):
            raise self._damaged("the numbers of its events do not rise")
        digest = chained("", rows)
        if (len(rows), digest) != (manifest.events, manifest.digest):
            raise self._damaged("its events are not those that were recorded")
        return Log(rows, changes)

    def _damaged(self, what: str) -> ConfigError:
        return ConfigError(
            f"the run in {self.place} cannot be continued: {what}",
            fix="continue in the run folder on its last machine, or begin again with another "
            "--store",
        )


def object_name(digest: str) -> str:
    """Name of the object with this SHA-256."""
    return f"{_OBJECTS}/{digest[:2]}/{digest}"


def _manifest_name(generation: int) -> str:
    return f"{_MANIFESTS}/{generation:010d}"


def chained(digest: str, rows: Iterable[Row]) -> str:
    """Digest of events in their order, continued from that of those before them."""
    for _, kind, key, value, _ in rows:
        event = hashlib.sha256(json.dumps([kind, key, value]).encode()).digest()
        digest = _sha256(digest.encode() + event)
    return digest


def write_batches(
    store: Store, rows: Sequence[Row], changes: dict[str, FileEntry | None], level: int = 0
) -> Iterator[tuple[Batch, dict[str, FileEntry | None]]]:
    """Store entries of the log, in as few batches as their size allows."""
    lines, size, seqs = list[bytes](), 0, list[int]()
    own: dict[str, FileEntry | None] = {}
    entries: list[Row | tuple[str, FileEntry | None]] = [*rows, *changes.items()]
    for place, entry in enumerate(entries):
        if len(entry) == 5:
            seqs.append(entry[0])
            lines.append(_line("e", *entry))
        else:
            path, file = entry
            own[path] = file
            fields = () if file is None else dataclasses.astuple(file)[1:]
            lines.append(_line("d" if file is None else "f", path, *fields))
        size += len(lines[-1])
        if size >= BATCH_BYTES or place == len(entries) - 1:
            content = zlib.compress(b"".join(lines))
            first, last = (seqs[0], seqs[-1]) if seqs else (0, 0)
            yield Batch(store.put(content), len(content), level, first, last), own
            lines, size, seqs, own = [], 0, [], {}


def _line(*fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _parse_batch(content: bytes, most: int) -> tuple[list[Row], dict[str, FileEntry | None], int]:
    """Events and changed files of a batch, and the bytes of its text, which are `most` at most."""
    rows, changes, size = list[Row](), dict[str, FileEntry | None](), 0
    for line in _lines(content):
        size += len(line) + 1
        if size > most:
            raise ValueError(f"the log has more than {_MOST_LOG_RATIO} times its packed size")
        kind, *fields = untrusted_files.parse_json(line, "a batch", fix="", top=list)
        if kind == "e":
            seq, *texts, at = fields
            if not _is_row(seq, texts, at):
                raise ValueError("an event has other fields")
            rows.append((seq, *texts, float(at)))
        elif kind == "d":
            (path,) = fields
            changes[_text(path)] = None
        elif kind == "f":
            path, length, digest, pieces, inline = fields
            entry = FileEntry(path, length, digest, tuple(pieces), inline)
            check_types(entry)
            if not _is_count(length) or not all(
                _SHA256.fullmatch(each) for each in (digest, *pieces)
            ):
                raise ValueError("the size or a digest of a file is none")
            changes[path] = entry
        else:
            raise ValueError(f"an entry of the kind {kind!r:.60}")
    return rows, changes, size


def _lines(content: bytes) -> Iterator[bytes]:
    """Lines of a packed text, which is unpacked while they are read.

    `write_batches` ends a batch with the entry that makes it larger than `BATCH_BYTES`.
    """
    unpacking, rest, size = zlib.decompressobj(), bytearray(), 0
    while not unpacking.eof:
        block = unpacking.decompress(content, _BLOCK_BYTES)
        content = unpacking.unconsumed_tail
        if not block and not unpacking.eof:
            raise ValueError("it is cut off")
        rest += block
        if len(rest) > _MOST_LINE_BYTES + _BLOCK_BYTES:
            raise ValueError(f"an entry has more than {_MOST_LINE_BYTES >> 20} MiB")
        if b"\n" not in block:
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if size >= BATCH_BYTES:
                raise ValueError("it is larger than a batch")
            size += len(line) + 1
            yield bytes(line)
    if rest:
        raise ValueError("its last entry is cut off")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is not text")
    return value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_row(seq: Any, texts: list[Any], at: Any) -> bool:
    numbers = _is_count(seq) and seq > 0 and type(at) in (int, float)
    return numbers and len(texts) == 3 and all(isinstance(each, str) for each in texts)


class LeaseWatch:
    """Watches from a thread whether the command that works on a run makes generations.

    Judged by what this process sees change, over its own clock: the clocks of the machines may
    differ.

    Parameters
    ----------
    store : Store
        The store.
    seen : Manifest
        The last generation as it was read.
    """

    def __init__(self, store: Store, seen: Manifest) -> None:
        self._store, self._seen = store, seen
        self._is_alive = False
        self._failure: StorageError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="store lease", daemon=True)
        self._thread.start()

    def is_alive(self, on_wait: Callable[[], None]) -> bool:
        """Whether a command works on the run; waits until that is known.

        Raises
        ------
        StorageError
            If the store cannot be read.
        """
        self._thread.join(0.1)
        if self._thread.is_alive():
            on_wait()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._is_alive

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _watch(self) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        try:
            while time.monotonic() < end and not self._stop.wait(BEAT_SECONDS / 4):
                numbers = self._store.generations()
                if numbers and numbers[-1] > self._seen.generation:
                    latest = self._store.latest()
                    self._is_alive = latest is not None and bool(latest.owner)
                    return
        except StorageError as error:
            self._failure = error


def new_owner() -> tuple[str, str]:
    """A random text for a command, and the name of this machine."""
    return secrets.token_hex(16), socket.gethostname()


def collect(store: Store, grace_seconds: float) -> tuple[int, int]:
    """Delete objects that no generation names and that are older than the grace period.

    Ages are those of the storage's own clock.

    Returns
    -------
    tuple of int
        Objects that were deleted, and their bytes.

    Raises
    ------
    ConfigError
        If a manifest is damaged.
    """
    probe = f"probe/{secrets.token_hex(8)}"
    store.storage.write(probe, b"now")
    probes = store.storage.objects("probe")
    now = max((each.modified for each in probes), default=0.0)
    store.storage.remove(probe)
    remove_all(store.storage, [p.name for p in probes if p.modified < now - grace_seconds])
    found = store.storage.objects(_OBJECTS)
    named = _named(store)  # After the listing: what was named meanwhile stays.
    old = [
        each
        for each in found
        if each.name.rpartition("/")[2] not in named and each.modified < now - grace_seconds
    ]
    if old and _named(store) - named:
        return 0, 0  # A command works on it.
    remove_all(store.storage, [each.name for each in old])
    return len(old), sum(each.size for each in old)


def _named(store: Store) -> set[str]:
    """Digests of the objects that the last generation and those moved aside name."""
    manifests = [] if (latest := store.latest()) is None else [latest]
    for each in store.storage.objects(_ASIDE):
        content = store.storage.read(each.name, _MANIFEST_BYTES)
        if content is not None:
            manifests.append(Manifest.from_json(content, f"{store.place}/{each.name}"))
    named = set[str]()
    for manifest in manifests:
        named |= {batch.sha256 for batch in manifest.batches}
        for entry in store.read_log(manifest).files.values():
            named.update(entry.pieces)
    return named


def _now() -> float:
    """Seconds of a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
