"""Make the clocks of `time` count CPU seconds.

With this folder on PYTHONPATH budgets, speeds and latencies of lepton are in CPU seconds, whatever
else the machine does: `monotonic` counts those of this process and its children, `perf_counter`
its own.
"""

from __future__ import annotations

# These modules must keep the clock that they read timeouts from: they bind it when imported.
import multiprocessing.connection  # noqa: F401
import os
import queue  # noqa: F401
import selectors  # noqa: F401
import subprocess  # noqa: F401
import threading  # noqa: F401
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def _running_children() -> float:
    """CPU seconds of the children that run, from /proc (Linux)."""
    seconds = 0.0
    for task in Path("/proc/self/task").iterdir():
        try:
            numbers = (task / "children").read_text().split()
        except OSError:
            continue
        for number in numbers:
            try:
                fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            seconds += sum(map(int, fields[11:15])) / _TICKS
    return seconds


def _cpu_seconds() -> float:
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system + _running_children()


time.monotonic = _cpu_seconds
time.perf_counter = time.process_time
