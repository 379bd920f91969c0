"""Power fails at any operation of a command: what was not synced is lost, in part or as a whole.

`shim.c` records the operations of an undisturbed command. `Disk` says what a disk may hold if the
power fails after some of them: data of a file are safe after an fsync of the file, names of files
and folders after one of the folder that holds them, and of everything else any part may be there.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.faults import scenario as scenarios
from tests.faults import warm as shim
from tests.faults.driver import Findings, Summary
from tests.faults.operations import Operation, changes
from tests.faults.scenario import Scenario, Work
from tests.helpers.processes import read_rows

_SECTOR = 512
POLICIES = ("synced", "all", "names", "data", "random", "random")
"""What is there of what was not synced: nothing, all, names only, data only, any part."""
RESUMED = 0.03
"""Share of the states from which the command goes on: that takes far longer than a look."""


@dataclass
class _Node:
    """A file with changes of its content, or a folder."""

    is_folder: bool = False
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, data) of a write, (size, None) of a truncation."""
    synced: int = 0
    """So many changes are safe."""

    def content(self, chosen: Sequence[tuple[int, bytes | None]]) -> bytes:
        result = bytearray()
        for offset, data in chosen:
            if data is None:
                del result[offset:]
                result.extend(bytes(offset - len(result)))
            else:
                result.extend(bytes(max(0, offset - len(result))))
                result[offset : offset + len(data)] = data
        return bytes(result)


@dataclass
class _Change:
    """A change of names in one folder."""

    kind: int
    path: str
    other: str
    node: _Node | None
    folder: str
    is_synced: bool = False


class Disk:
    """A disk below one folder, which receives operations and then loses power.

    Parameters
    ----------
    root : Path
        Folder that was there before.
    start : Path, optional
        What was in it, safe on the disk; None: nothing.
    """

    def __init__(self, root: Path, start: Path | None = None) -> None:
        self.root = str(root.resolve())
        self._start = {} if start is None else _nodes(start, self.root)
        self._names = dict(self._start)
        self._changes: list[_Change] = []
        self.events: set[tuple[str, str]] = set()
        """Kind and key of acknowledged events."""
        self.files: dict[str, bytes] = {}
        """Acknowledged files that were not touched since, by their path."""

    def apply(self, operation: Operation) -> None:
        """Receive the next operation."""
        kind, path = operation.kind, operation.path
        if kind == shim.MARK:
            self._acknowledge(path)
        elif kind in {shim.CREATE, shim.MKDIR}:
            self._change(operation, _Node(is_folder=kind == shim.MKDIR))
        elif kind in {shim.RENAME, shim.UNLINK}:
            self._change(operation, None)
        elif kind == shim.SYNC:
            self._sync(path)
        elif node := self._names.get(path):  # Else it is deleted.
            self.files.pop(path, None)
            data = operation.data if kind == shim.WRITE else None
            node.changes.append((operation.offset, data))

    def _acknowledge(self, text: str) -> None:
        what, _, name = text.partition(" ")
        if what == "event":
            kind, _, key = name.partition("\t")
            self.events.add((kind, key))
        elif node := self._names.get(name):
            self.files[name] = node.content(node.changes)

    def _change(self, operation: Operation, node: _Node | None) -> None:
        path, other = operation.path, operation.other
        folder = str(PurePosixPath(path).parent)
        self._changes.append(_Change(operation.kind, path, other, node, folder))
        for touched in filter(None, (path, other)):
            for name in [n for n in self.files if n == touched or n.startswith(f"{touched}/")]:
                del self.files[name]
        _rename(self._names, self._changes[-1])

    def _sync(self, path: str) -> None:
        node = self._names.get(path)
        if node is None or node.is_folder:  # The root has no node.
            for change in self._changes:
                change.is_synced |= change.folder == path
        else:
            node.synced = len(node.changes)

    def lose_power(self, policy: str, rng: random.Random) -> dict[str, bytes | None]:
        """What is there afterwards: path -> content, None of a folder."""
        names = dict(self._start)
        for change in self._changes:
            if change.is_synced or _is_there(policy, "names", rng):
                _rename(names, change)
        found: dict[str, bytes | None] = {}
        for path in sorted(names):
            node, folder = names[path], str(PurePosixPath(path).parent)
            if folder in found or folder == self.root or folder not in self._names:
                found[path] = None if node.is_folder else self._content(node, policy, rng)
        return found

    def _content(self, node: _Node, policy: str, rng: random.Random) -> bytes:
        chosen = list(node.changes[: node.synced])
        for offset, data in node.changes[node.synced :]:
            if not _is_there(policy, "data", rng):
                continue
            if data is not None and policy == "random" and rng.random() < 0.3:
                data = data[: rng.randrange(0, len(data) + _SECTOR, _SECTOR)]
            chosen.append((offset, data))
        return node.content(chosen)


def _nodes(start: Path, root: str) -> dict[str, _Node]:
    """Nodes of what lies in a folder, as if it lay in another one."""
    return {
        f"{root}/{path.relative_to(start)}": _Node(is_folder=True)
        if path.is_dir()
        else _Node(changes=[(0, path.read_bytes())], synced=1)
        for path in sorted(start.rglob("*"))
    }


def _is_there(policy: str, what: str, rng: random.Random) -> bool:
    return policy in {"all", what} or (policy == "random" and rng.random() < 0.5)


def _rename(names: dict[str, _Node], change: _Change) -> None:
    """Apply a change of names, if what it names is there."""
    if change.node is not None:
        names[change.path] = change.node
    elif change.kind == shim.UNLINK:
        names.pop(change.path, None)
    else:
        for name in [n for n in names if n == change.path or n.startswith(f"{change.path}/")]:
            names[change.other + name.removeprefix(change.path)] = names.pop(name)


def restore(found: dict[str, bytes | None], root: str, base: Path) -> None:
    """Write what is there after power was lost into another folder."""
    for path, content in found.items():
        place = base / path.removeprefix(root).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(content)


def problems_of(disk: Disk, found: dict[str, bytes | None], base: Path, ledger: str) -> list[str]:
    """What is lost of what was acknowledged; the ledger is restored in `base`."""
    parts = {path: found[path] for path in found if _below(path, disk.root).startswith(ledger)}
    restore(parts, disk.root, base)
    problems = [
        f"the acknowledged file {_below(path, disk.root)} is {'other' if path in found else 'lost'}"
        for path, content in disk.files.items()
        if found.get(path) != content
    ]
    there = {(kind, key) for _, kind, key, _, _ in read_rows(base / ledger)}
    if lost := disk.events - there:
        problems.append(f"acknowledged events are lost: {len(lost)}, {sorted(lost)[:3]}")
    return problems


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/")


class PowerLoss:
    """Power losses during `run`, `pick` and `compress MODEL.onnx`; the same command goes on."""

    name = "power"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Look at many states of the disk, and resume from some, until the time is over."""
        end, done = time.monotonic() + seconds, Counter[str]()
        warm, commands, name = scenarios.prepared("run", "pick", "compress")
        if not warm.has_shim:
            return Summary(0, {"left out": "there is no C compiler"})
        logs = {each: record(work, warm, name / f"log-{each}") for each, work in commands.items()}
        while time.monotonic() < end:
            each = rng.choice(["run", "run", "pick", "compress"])
            work, (root, operations) = commands[each], logs[each]
            disk, seed = Disk(root, work.start.base), rng.getrandbits(32)
            chance = random.Random(seed)
            last = chance.randrange(len(operations))
            for operation in operations[: last + 1]:
                disk.apply(operation)
            for policy in POLICIES:
                base = name / "case"
                found = disk.lose_power(policy, chance)
                problems = problems_of(disk, found, base, f"{work.folder}/ledger.db")
                done["states"] += 1
                resumes = not problems and chance.random() < RESUMED
                if resumes or problems:
                    shutil.rmtree(base, ignore_errors=True)
                    restore(found, disk.root, base)
                    case = Scenario(base)
                if resumes:
                    done["resumed"] += 1
                    problems += scenarios.finish(case, warm, work.arguments)
                    problems += scenarios.end_problems(case, work.artifact)
                    problems += scenarios.difference(work.made, case.files(work.artifact))
                if problems:
                    place = operations[last]
                    about = f"{shim.NAMES[place.kind]} {_below(place.path, disk.root)}, {policy}"
                    what = f"{each}: {problems[0]}\nafter {about}\n" + "\n".join(problems)
                    findings.save(self.name, base, f"{each} {last} {seed}", what)
                shutil.rmtree(base, ignore_errors=True)
        return Summary(done["states"], {k: len(v[1]) for k, v in logs.items()} | dict(done))


def record(work: Work, warm: shim.Warm, base: Path) -> tuple[Path, list[Operation]]:
    """Record the operations of an undisturbed command; the folder it worked in, and they."""
    case, log = work.start.copy(base), base.with_suffix(".log")
    command = case.start(warm, *work.arguments, root=base, log=log, patches=[["mark_acknowledged"]])
    if command.wait():
        raise AssertionError(f"{work.name} undisturbed: {command.err}")
    return base, changes(log)


KINDS = (PowerLoss(),)
