"""Mutants of stores: manifests, batches of the log and objects, with the digests made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_automl.errors import ConfigError, LeptonError
from lepton_automl.runs.store import chained, object_name
from lepton_automl.runs.store_copy import StoreCopy
from tests.faults.mutants import trees
from tests.faults.mutants.content import Content, mutated_bytes
from tests.faults.mutants.engine import Subject, run_command
from tests.faults.mutants.places import fresh, one_of, split

_STORE, _WHOLE, _BROUGHT = "shop", "shop-whole", "brought"
_MANIFEST, _ASIDE, _BATCH, _OBJECT = "manifest", "aside", "batch", "object"
_SHOW = ("store", _STORE)
_RUN = (
    *("run", "few.npz", "--space", "space.toml", "--trials", "2", "--jobs", "1"),
    *("--objective", "accuracy,size_bytes", "--store", _STORE),
)
_makes_copies = [False]
"""Whether commands copy to their store."""
_start = StoreCopy.start


def start_or_end(copy: StoreCopy) -> None:
    """In place of `StoreCopy.start`: a command ends once it has brought a run from its store."""
    if not _makes_copies[0]:
        raise ConfigError("the run is here", fix="none")
    _start(copy)


def _whole(stage: Path) -> Path:
    """The store of the finished run."""
    whole = stage / _WHOLE
    if not whole.exists():
        shutil.copytree(stage / "whole", stage / "stored-run")
        _makes_copies[0] = True
        try:
            code, out, err, failure = run_command([*_RUN, "--out", "stored-run"], stage)
        finally:
            _makes_copies[0] = False
        assert code == 0, (code, out, err, failure)
        shutil.move(stage / _STORE, whole)
        shutil.rmtree(whole / "probe", ignore_errors=True)
    return whole


def _last(store: Path) -> Path:
    return max((store / "manifest").iterdir())


def _log_text(store: Path, digest: str) -> Content:
    return zlib.decompress((store / object_name(digest)).read_bytes())


def _seeds(stage: Path) -> list[Content]:
    store = _whole(stage)
    manifest = _last(store).read_bytes()
    found = [b"manifest\n" + manifest, b"aside\n" + manifest]
    for number, batch in enumerate(json.loads(manifest)["batches"]):
        found.append(f"batch {number}\n".encode() + _log_text(store, batch["sha256"]))
        name = object_name(batch["sha256"])
        found.append(f"object {name}\n".encode() + (store / name).read_bytes())
    return found


def mutated_store(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A file of a store that is changed as what it is."""
    chosen = rng.choice(inputs)
    head, body = split(chosen)
    kind = head.split(" ")[0]
    own = [text for one in inputs for name, text in (split(one),) if name == head]
    if kind in (_MANIFEST, _ASIDE):
        body = trees.mutated_json(rng, own)
    elif kind == _BATCH:
        body = _mutated_log(rng, body)
    else:
        body = mutated_bytes(rng, own)
    return head.encode() + b"\n" + body


def _mutated_log(rng: random.Random, text: Content) -> Content:
    """Lines of a batch that are changed, lost, doubled or moved."""
    lines = text.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines))
        chance = rng.random()
        if chance < 0.1:
            del lines[place]
            lines = lines or [b""]
        elif chance < 0.2:
            lines.insert(rng.randrange(len(lines)), lines[place])
        elif chance < 0.25:
            lines.insert(place, rng.choice((b"[]", b'["d"]', b'["f"]', b'["e"]', b"[" * 5000)))
        elif chance < 0.3:
            lines[place] = mutated_bytes(rng, [lines[place] or b" "])
        elif lines[place]:
            lines[place] = trees.mutated_json(rng, [lines[place]]).replace(b"\n", b" ")
    return b"\n".join(lines)


def _in_store(stage: Path, content: Content) -> Sequence[str]:
    head, body = split(content)
    store = fresh(stage / _STORE, _whole(stage))
    kind, _, which = head.partition(" ")
    chosen = zlib.crc32(content)
    last = _last(store)
    if kind == _ASIDE:
        (store / _ASIDE).mkdir(exist_ok=True)
        (store / _ASIDE / "20260101-000000-ab").write_bytes(_sealed(body))
        return (*_SHOW, "--gc")
    if kind == _BATCH:
        _put_batch(store, last, int(which), body)
    elif kind == _OBJECT:
        (store / which).write_bytes(body)
    else:
        last.write_bytes(_sealed(body) if chosen % 4 else body)
    shutil.rmtree(stage / _BROUGHT, ignore_errors=True)
    bring = (*_RUN, "--out", _BROUGHT)
    return one_of(
        content,
        *(_SHOW, (*_SHOW, "--json"), (*_SHOW, "--gc"), bring, bring),
        (*bring, "--take-over"),
    )


def _sealed(body: Content) -> Content:
    """A manifest with the digest of what it says."""
    try:
        document = json.loads(body)
        document = {name: document[name] for name in document if name != "sha256"}
        plain = json.dumps(document, separators=(",", ":"))
    except (ValueError, TypeError, IndexError, RecursionError):
        return body
    document["sha256"] = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps(document, separators=(",", ":")).encode()


def _put_batch(store: Path, last: Path, number: int, text: Content) -> None:
    """Store a batch, and a manifest that names it and the digest of its events."""
    manifest = json.loads(last.read_bytes())
    packed = zlib.compress(text, 1)
    digest = hashlib.sha256(packed).hexdigest()
    (store / object_name(digest)).parent.mkdir(exist_ok=True)
    (store / object_name(digest)).write_bytes(packed)
    batch = manifest["batches"][number % len(manifest["batches"])]
    batch |= {"sha256": digest, "size": len(packed)}
    rows = [
        row
        for each in manifest["batches"]
        for line in _log_text(store, each["sha256"]).splitlines()
        if (row := _event(line)) is not None
    ]
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        manifest |= {"events": len(rows), "digest": chained("", rows)}
    last.write_bytes(_sealed(json.dumps(manifest).encode()))
    os.utime(last)


def _event(line: Content) -> Any:
    try:
        kind, *fields = json.loads(line)
    except (ValueError, TypeError, RecursionError, LeptonError):
        return None
    return tuple(fields) if kind == "e" and len(fields) == 5 else None


SUBJECTS = (Subject("store", _seeds, mutated_store, _in_store),)
