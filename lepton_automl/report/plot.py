"""A scatter plot in text: accuracy against a cost, the front and the winner marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["other", "front", "winner"]
SIGNS: dict[Mark, str] = {"other": "·", "front": "o", "winner": "#"}
ORDER: tuple[Mark, ...] = ("other", "front", "winner")
"""Later ones are drawn over earlier ones."""


@dataclass(frozen=True)
class Point:
    """A candidate."""

    cost: float
    """Above 0."""
    accuracy: float
    """0 to 1."""
    mark: Mark


def plot(
    points: Sequence[Point],
    text: Callable[[float], str],
    label: str,
    *,
    width: int = 56,
    height: int = 10,
) -> str:
    """Lines of text: accuracy upwards, the logarithm of the cost to the right.

    Parameters
    ----------
    points : sequence of Point
        With none the plot is empty text.
    text : callable
        A cost in its unit.
    label : str
        What the cost is.
    width, height : int
        Of the field, characters.
    """
    if not points:
        return ""
    costs, heights = [math.log(p.cost) for p in points], [p.accuracy for p in points]
    field = [[" "] * width for _ in range(height)]
    for point in sorted(points, key=lambda p: ORDER.index(p.mark)):
        column = _place(math.log(point.cost), costs, width)
        row = height - 1 - _place(point.accuracy, heights, height)
        field[row][column] = SIGNS[point.mark]
    side = [""] * height
    side[0], side[-1] = (f"{100 * end:.1f} %" for end in (max(heights), min(heights)))
    lines = [f"{name:>8} │{''.join(row)}" for name, row in zip(side, field, strict=True)]
    left, right = text(min(p.cost for p in points)), text(max(p.cost for p in points))
    ends = f"{left}{label:^{max(width - len(left) - len(right), len(label) + 2)}}{right}"
    legend = f"{SIGNS['winner']} winner  {SIGNS['front']} front  {SIGNS['other']} others"
    return "\n".join([*lines, f"{'':>8} └{'─' * width}", f"{'':>10}{ends}", f"{'':>10}{legend}"])


def _place(value: float, values: Sequence[float], count: int) -> int:
    low, high = min(values), max(values)
    return round((value - low) / (high - low) * (count - 1)) if high > low else count // 2
