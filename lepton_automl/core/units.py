"""Format bytes, counts, times, shares, accuracies and lists for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Unit = Literal["ms", "kB", "MACs", "share", "points"]


def percent(part: float, whole: float) -> str:
    """Share of a time and its seconds: `60 % (72 s)`."""
    share = 100 * part / whole if whole > 0 else math.nan
    return f"{share:.0f} % ({part:.0f} s)"


def counted(count: int, noun: str) -> str:
    """A number and a noun whose plural ends in s: `1 epoch`, `9 epochs`, `2,000 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def epochs_text(count: int) -> str:
    """`1 epoch`, `9 epochs`."""
    return counted(count, "epoch")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: float) -> str:
    """`812 B`, `12.3 kB`, `1.20 MB`; a kB is 1000 bytes."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def count_text(count: float) -> str:
    """`812`, `12.3 k`, `1.20 M`, `3.40 G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def time_text(milliseconds: float) -> str:
    """`13.2 us`, `1.34 ms`, `15.4 s`, `1540 s`."""
    if milliseconds < 1:
        return f"{milliseconds * 1e3:.3g} us"
    if milliseconds < 999.5:
        return f"{milliseconds:.3g} ms"
    seconds = milliseconds / 1e3
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def accuracy_text(accuracy: float, interval: tuple[float, float] | None = None) -> str:
    """`98.61 % [96.81, 99.40]`, or without an interval."""
    text = f"{100 * accuracy:.2f} %"
    return (
        text if interval is None else f"{text} [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"
    )


def quantity_text(value: float, unit: Unit) -> str:
    """A limit or a measured value in its unit, three digits."""
    if unit == "points":
        return f"{value:.2f} points"
    texts = {"ms": time_text, "kB": bytes_text, "MACs": count_text, "share": accuracy_text}
    return texts[unit](value)


def accuracy_title(is_balanced: bool) -> str:
    """`accuracy` or `balanced accuracy`."""
    return "balanced accuracy" if is_balanced else "accuracy"


def first_few(texts: Sequence[str], most: int = 5) -> str:
    """The first texts, with commas, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
