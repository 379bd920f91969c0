"""Processes seen from outside, in groups of their own; a ledger read without lepton."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 900.0
"""After which a process hangs; far more than it takes beside many others."""
Row = tuple[int, str, str, str, float]
"""seq, kind, key, value, at: a row of the ledger as it lies on the disk."""


def ended(process: subprocess.Popen[str]) -> int:
    """The exit code of a process that is about to end; what it said is shown if a test fails."""
    sys.stderr.write(process.communicate(timeout=LONGEST_SECONDS)[1])
    return process.returncode


def lepton(*arguments: str) -> subprocess.Popen[str]:
    """`lepton ARGUMENTS` in a process group of its own."""
    return python("-m", "lepton_automl", *arguments)


def python(*arguments: str) -> subprocess.Popen[str]:
    """Python in a process group of its own, in the root of the project."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_rows(ledger: Path) -> list[Row]:
    """What the ledger holds, read without lepton; nothing while there is none."""
    try:
        db = sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []
    try:
        return db.execute("SELECT seq, kind, key, value, at FROM events ORDER BY seq").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def note(ledger: Path, name: str) -> dict[str, Any]:
    """What the command at work says of itself under `name`; nothing while it does not."""
    try:
        db = sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return {}
    try:
        found = db.execute("SELECT value FROM live WHERE name = ?", (name,)).fetchone()
    except sqlite3.OperationalError:
        return {}
    finally:
        db.close()
    return dict(json.loads(found[0])) if found else {}


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Wait until a condition holds; False if it does not for so long: then something hangs."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def begun_training(ledger: Path) -> bool:
    """Whether the command at work has handed a task out two seconds ago."""
    first = note(ledger, "workers").get("first", 0.0)
    return 2 <= time.time() - first < 60


def seconds(ledger: Path) -> float:
    """What the ledger has counted, over all commands."""
    with contextlib.closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as db:
        return float(db.execute("SELECT SUM(seconds) FROM sessions").fetchone()[0])


def children(pid: int, word: str = "") -> set[int]:
    """Processes that `pid` has started and that were called with `word`."""
    return {child for child, parent, _, words in _processes() if parent == pid and word in words}


def zombies(pid: int) -> set[int]:
    """Processes that `pid` has started, that have ended and that it has not asked after."""
    return {child for child, parent, state, _ in _processes() if (parent, state) == (pid, "Z")}


def _processes() -> Iterator[tuple[int, int, str, str]]:
    """Process id, parent, state and command line of everybody."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            words = (stat.parent / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(stat.parent.name), int(fields[1]), fields[0], words


def alive(pids: Iterable[int]) -> set[int]:
    """Those of `pids` that still run."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.add(pid)
    return found


def members_of(group: int) -> list[int]:
    """Processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(path.name)) == group:
                found.append(int(path.name))
    return found


def listening(pids: Iterable[int]) -> set[str]:
    """Addresses that processes listen at, as /proc/net shows them: `0100007F:1F90`."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    found = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        table = Path("/proc/net", name)
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if (fields[3] == "0A" or name.startswith("udp")) and fields[9] in inodes:
                found.add(fields[1])
    return found


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets of a process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                link = str(path.readlink())
                if link.startswith("socket:["):
                    yield link[8:-1]
