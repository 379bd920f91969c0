"""Shortest time of a repeated call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def shortest_call(call: Callable[[], object], seconds: float) -> float:
    """Shortest time of a call, repeated for about `seconds`, at least once; above 0.

    Disturbances only add time: on a busy machine the minimum of a block varies half as much as
    its median ("Latency as a ratio" in docs/decisions.md).
    """
    clock, least = time.perf_counter, math.inf
    before = clock()
    end = before + seconds
    while True:
        call()
        after = clock()
        if after > before:  # A coarse clock may stand still during a call.
            least = min(least, after - before)
        if after >= end and least < math.inf:
            return least
        before = after
