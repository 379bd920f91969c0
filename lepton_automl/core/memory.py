"""Memory of this machine, and the anonymous memory that a command takes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from lepton_automl.core.events import Emit, Event

_SECONDS = 0.5
"""Between two looks at the processes."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> int:
    """Bytes of memory of this machine, or of the container that the process is in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # `max` where there is no limit.
            found.append(int(Path(path).read_text()))
    return min(found)


def gib_text(count: float) -> str:
    """`812 MiB`, `1.25 GiB`."""
    mib = count / (1 << 20)
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.2f} GiB"


def anonymous_bytes(process: int) -> int:
    """Resident anonymous memory of a process and those that it has started; 0: not known."""
    total, waiting = 0, [process]
    while waiting:
        current = Path("/proc", str(waiting.pop()))
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in (current / "status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += 1024 * int(line.split()[1])
            for task in (current / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


class MemoryWatch:
    """Looks at the anonymous memory of this process and its children twice a second.

    Parameters
    ----------
    limit : int
        Bytes above which an event is emitted, once.
    option : str
        The option that states the limit, for the event; empty: it is not stated, and no event.
    emit : callable
        Receives the event.
    """

    def __init__(self, limit: int, option: str, emit: Emit) -> None:
        self.peak = 0
        """Most bytes that were seen."""
        self._limit, self._option, self._emit = limit, option, emit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        is_told = not self._option
        while not self._stop.wait(_SECONDS):
            self.peak = max(self.peak, anonymous_bytes(os.getpid()))
            if self.peak > self._limit and not is_told:
                is_told = True
                text = f"all processes together take {gib_text(self.peak)}, more than "
                text += f"{self._option} {gib_text(self._limit)}: a net needs it"
                self._emit(Event("run", text))


@contextmanager
def watched_memory(limit: int, option: str, emit: Emit) -> Iterator[None]:
    """Report at the end of the block how much memory was taken; parameters as of `MemoryWatch`."""
    with MemoryWatch(limit, option, emit) as watch:
        yield
    if watch.peak:
        text = f"at most {gib_text(watch.peak)} of anonymous memory in all processes"
        emit(Event("run", text, data={"peak_bytes": watch.peak}, is_detail=not option))
