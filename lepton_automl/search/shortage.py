"""Shortage: what says that memory ran out, in a worker or in the kernel that killed it."""

from __future__ import annotations

import signal
from pathlib import Path

import torch

COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Where Linux counts the processes it has killed for memory."""
_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch has several ways to say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in _WORDS)


def kills_for_memory() -> int | None:
    """How many processes the kernel has killed for memory so far; None where it does not tell."""
    counts = [count for path in COUNTERS for count in _counted(path)]
    return sum(counts) if counts else None


def was_shortage(exit_code: int, before: int | None) -> bool:
    """Whether a process was killed because memory ran out.

    A person's `kill -9` looks the same but for the kernel's counter. Where there is none, memory
    is the likelier reason.

    Parameters
    ----------
    exit_code : int
        Of the process, as `subprocess` gives it.
    before : int or None
        `kills_for_memory` when the process began its work.
    """
    if exit_code != -signal.SIGKILL:
        return False
    now = kills_for_memory()
    return now is None or before is None or now > before


def _counted(path: Path) -> list[int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) for line in lines if line.split()[:1] == ["oom_kill"]]
