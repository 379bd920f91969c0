"""Packing: how many workers share a GPU, tried out one more at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GAIN = 1.1
"""One worker more must make the whole at least so many times as fast."""
ROOM = 1.25
"""... and find so many times the memory free that a worker has used so far."""
WINDOW_SECONDS = 20.0
"""A number of workers is judged by its speed over so long."""


@dataclass(frozen=True)
class Memory:
    """Of the GPU that has the least free, in bytes."""

    free: int
    total: int


def wanted(rates: Mapping[int, float], now: int, memory: Memory | None, most: int) -> int:
    """How many workers each GPU should have.

    Parameters
    ----------
    rates : mapping
        Number of workers a GPU -> measured speed of the whole, in any unit.
    now : int
        How many there are.
    memory : Memory or None
        None where it is not known: nobody is added then.
    most : int
        As many as the processor's cores allow.
    """
    if now not in rates:
        return now
    if now > 1 and now - 1 in rates and rates[now] < GAIN * rates[now - 1]:
        return now - 1
    if now + 1 in rates:
        return now + 1 if rates[now + 1] >= GAIN * rates[now] else now
    if memory is None or now >= most:
        return now
    each = (memory.total - memory.free) / now
    return now + 1 if memory.free >= ROOM * each else now


class Packing:
    """Watches the speed of all workers and says how many a GPU should have.

    Parameters
    ----------
    most : int
        Workers a GPU may get at most.
    """

    def __init__(self, most: int) -> None:
        self.count, self.most = 1, most
        self.rates: dict[int, float] = {}
        self._since: tuple[float, float] | None = None

    def look(self, now: float, done: float, memory: Memory | None, *, ready: bool) -> int:
        """So many workers each GPU should have from now on.

        Parameters
        ----------
        now : float
            Seconds of a clock.
        done : float
            Work done so far by all, in the units of `plan.work_of`.
        memory : Memory or None
            Of the fullest GPU, where it is known.
        ready : bool
            Whether every worker has trained something: a process takes seconds to start.
        """
        if not ready:
            self._since = None
        elif self._since is None:
            self._since = now, done
        elif now - self._since[0] >= WINDOW_SECONDS:
            begun, before = self._since
            self.rates[self.count] = (done - before) / (now - begun)
            self._since = None
            self.count = wanted(self.rates, self.count, memory, self.most)
        return self.count
