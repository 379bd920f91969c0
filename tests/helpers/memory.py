"""Anonymous memory of this process, which no file can take the place of."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def anonymous_bytes() -> int:
    """Anonymous memory that is resident now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def kept_bytes(make: Callable[[], Any]) -> int:
    """How much more of it there is while what `make` returns is alive."""
    gc.collect()
    _return_freed()
    before = anonymous_bytes()
    made = make()
    grown = anonymous_bytes() - before
    del made
    return grown


def _return_freed() -> None:
    """Give freed memory back, which glibc else fills first, so that nothing seems to be taken."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
