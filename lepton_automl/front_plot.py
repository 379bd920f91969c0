"""The front as an SVG file: accuracy, its interval, latency or bytes, which one was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lepton_automl import durable, svg
from lepton_automl import wording as w
from lepton_automl.search.work import TrialRow
from lepton_automl.shares import epochs_text

FILE = "front.svg"
WIDTH, HEIGHT = 820, 500
LEFT, RIGHT, TOP, BOTTOM = 92, 28, 76, 62
"""Margins of the field."""
ROOM = 0.06
"""Of the field, kept free at its edges."""
STEPS = (
    *(0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99, 99.5, 99.8),
    *(99.9, 99.95, 99.98),
)
"""Per cent that may be named on the axis of accuracies."""
LEAST_STEPS, MOST_STEPS = 3, 9
"""Names on the axis of costs."""
GAP = 24
"""Pixels between two names on the upward axis, at least."""
INK, FAINT, GRID, FRONT, CHOSEN, PICKED = (
    "#22272e",
    "#6b7480",
    "#e6e9ed",
    "#2f6fb3",
    "#d9480f",
    "#2b8a3e",
)


@dataclass(frozen=True)
class Scale:
    """From a value to pixels, straight between two of its ends."""

    of: Callable[[float], float]
    """What is linear in pixels."""
    low: float
    high: float
    """Of that."""
    start: float
    end: float
    """Pixels."""

    def __call__(self, value: float) -> float:
        share = (self.of(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def write(
    folder: Path,
    rows: Sequence[TrialRow],
    front: Sequence[TrialRow],
    chosen: int,
    picked: Collection[int] = (),
    measure: str = "accuracy",
) -> Path | None:
    """Draw the trained candidates into `folder`/front.svg; None where there are none.

    Parameters
    ----------
    folder : Path
        The run folder.
    rows, front : sequence of TrialRow
        All candidates; those that no other is better than in every objective.
    chosen : int
        Number of the winner.
    picked : collection of int
        Numbers that `lepton pick` made artifacts of.
    measure : str
        What the accuracy is called.

    Raises
    ------
    MachineError
        If the file cannot be written.
    """
    trained = [row for row in rows if row.accuracy is not None and row.feasible]
    if not trained:
        return None
    name = folder.resolve().name
    text = draw(trained, {row.number for row in front}, chosen, picked, name, measure)
    return durable.write(folder / FILE, text)


def draw(
    rows: Sequence[TrialRow],
    front: Collection[int],
    chosen: int,
    picked: Collection[int],
    name: str,
    measure: str = "accuracy",
) -> str:
    """The drawing as SVG.

    The axis of the accuracies is even in the logarithm of the errors: halving them is one height
    everywhere. That of the costs is logarithmic too.
    """
    is_timed = all(row.cost.latency_ms is not None for row in rows)
    costs = {r.number: (r.cost.latency_ms if is_timed else r.cost.size_bytes) or 1.0 for r in rows}
    text = w.time_text if is_timed else w.bytes_text
    label = w.latency_title(rows[0].cost.latency_basis) if is_timed else "bytes of the int8 file"
    x, y = _across(costs.values()), _upward(rows)
    marked = [row for row in rows if row.number in front or row.number in {chosen, *picked}]
    parts = [
        *_frame(
            y,
            _names(x, text, costs.values()),
            (f"{label}, less is better", f"{measure} on validation"),
            name,
            has_picks=bool(picked),
            is_perfect=any(row.accuracy == 1.0 for row in rows),
        ),
        *(
            _dot(x(costs[r.number]), y(r.accuracy or 0.0), _about(r))
            for r in rows
            if r not in marked
        ),
        _stairs([(costs[r.number], r.accuracy or 0.0) for r in rows if r.number in front], x, y),
    ]
    for row in sorted(marked, key=lambda r: (r.number == chosen, r.number in picked)):
        kind = "chosen" if row.number == chosen else "picked" if row.number in picked else "front"
        parts.append(_mark(row, x(costs[row.number]), y, kind))
    body = "\n".join(part for part in parts if part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="system-ui, Helvetica, Arial, sans-serif" '
        f'font-size="13">\n<title>{escape(name)}: {measure} against {escape(label)}</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def cost_steps(low: float, high: float) -> list[float]:
    """Round costs from `low` to `high`, both above 0: few digits, at least three if there are."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(n / 10 for n in range(10, 100))):
        every = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        found = [step for step in every if low <= step <= high]
        if len(found) >= LEAST_STEPS:
            break
    return found[:: math.ceil(len(found) / MOST_STEPS)] if found else found


def _across(costs: Collection[float]) -> Scale:
    low, high = math.log(min(costs)), math.log(max(costs))
    room = max(ROOM * (high - low), 0.08)
    return Scale(math.log, low - room, high + room, LEFT, WIDTH - RIGHT)


def _upward(rows: Sequence[TrialRow]) -> Scale:
    tops = [(row.interval or (0.0, row.accuracy or 0.0))[1] for row in rows]
    # No errors at all are drawn as half of the fewest there are.
    errors = [1 - (row.accuracy or 0.0) for row in rows if row.accuracy != 1.0]
    least = max(min(errors, default=0.01) / 2, 1e-5)

    def height(accuracy: float) -> float:
        return -math.log(max(1 - accuracy, least))

    low, high = min(height(row.accuracy or 0.0) for row in rows), height(max(tops))
    room = max(ROOM * (high - low), 0.05)
    return Scale(height, low - room, high + room / 2, HEIGHT - BOTTOM, TOP)


def _names(
    x: Scale, text: Callable[[float], str], costs: Collection[float]
) -> list[tuple[float, str]]:
    """Pixels and words on the axis of costs."""
    steps = cost_steps(math.exp(x.low), math.exp(x.high)) or [min(costs)]
    return [(x(step), text(step)) for step in steps]


def _frame(
    y: Scale,
    names: Sequence[tuple[float, str]],
    labels: tuple[str, str],
    name: str,
    *,
    has_picks: bool,
    is_perfect: bool,
) -> list[str]:
    """Title, legend, grid, axes and their names."""
    bottom, right, middle = HEIGHT - BOTTOM, WIDTH - RIGHT, (TOP + HEIGHT - BOTTOM) / 2
    parts = [svg.text(LEFT, 28, f"{name}: what the search found", INK, size=17, weight=600)]
    parts += _legend(has_picks)
    for at, words in _heights(y, is_perfect):
        parts.append(svg.line(LEFT, at, right, at, GRID))
        parts.append(svg.text(LEFT - 10, at + 4, words, FAINT, anchor="end"))
    for at, words in names:
        parts.append(svg.line(at, TOP, at, bottom, GRID))
        parts.append(svg.text(at, bottom + 20, words, FAINT, anchor="middle"))
    parts.append(svg.line(LEFT, bottom, right, bottom, FAINT))
    parts.append(svg.line(LEFT, TOP, LEFT, bottom, FAINT))
    turned = f' transform="rotate(-90 20 {middle:.1f})"'
    parts.append(svg.text(20, middle, labels[1], INK, anchor="middle", more=turned))
    parts.append(svg.text((LEFT + right) / 2, HEIGHT - 16, labels[0], INK, anchor="middle"))
    return parts


def _heights(y: Scale, is_perfect: bool) -> list[tuple[float, str]]:
    """Pixels and words on the axis of accuracies, none too close to another."""
    found = [(y(1.0), "100 %")] if is_perfect else []
    for percent in STEPS:
        at = y(percent / 100)
        is_inside = TOP <= at <= HEIGHT - BOTTOM
        if is_inside and all(abs(at - other) >= GAP for other, _ in found):
            found.append((at, f"{percent:g} %"))
    return found


def _legend(has_picks: bool) -> list[str]:
    parts, at = [], LEFT + 6.0
    for kind, words in (
        ("chosen", "chosen"),
        ("picked", "picked"),
        ("front", "front, 95 % interval"),
        ("other", "other candidates"),
    ):
        if kind == "picked" and not has_picks:
            continue
        parts += [_shape(kind, at, 50), svg.text(at + 12, 54, words, FAINT)]
        at += 34 + 6.6 * len(words)
    return parts


def _mark(row: TrialRow, x: float, y: Scale, kind: str) -> str:
    at = y(row.accuracy or 0.0)
    low, high = row.interval or (row.accuracy or 0.0, row.accuracy or 0.0)
    colour = {"chosen": CHOSEN, "picked": PICKED}.get(kind, FRONT)
    parts = [f"<g><title>{escape(_about(row))}</title>"]
    bottom = min(y(low), HEIGHT - BOTTOM)
    parts.append(svg.line(x, bottom, x, max(y(high), TOP), colour, opacity=0.45, width=1.6))
    parts.append(_shape(kind, x, at))
    if kind != "front":
        is_left = x > WIDTH - 190
        words = (
            f"trial {row.number}: {row.accuracy or 0.0:.1%}, {w.bytes_text(row.cost.size_bytes)}"
        )
        parts.append(
            svg.text(
                x + (-13 if is_left else 13),
                at - 9,
                words,
                colour,
                weight=600,
                anchor="end" if is_left else "start",
                more=svg.HALO,
            )
        )
    return "".join([*parts, "</g>"])


def _shape(kind: str, x: float, y: float) -> str:
    match kind:
        case "chosen":
            return svg.diamond(x, y, 8, CHOSEN)
        case "picked":
            return svg.square(x, y, 5.5, PICKED)
        case "front":
            return svg.circle(x, y, 5.5, FRONT)
    return svg.circle(x, y, 3.2, FAINT, opacity=0.45)


def _dot(x: float, y: float, about: str) -> str:
    return f"<g><title>{escape(about)}</title>{_shape('other', x, y)}</g>"


def _stairs(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """What can be had for a cost: a step up at every point that is better than all cheaper ones."""
    best, path = -math.inf, ""
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            here = f"{x(cost):.1f} {y(accuracy):.1f}"
            path += f" H {x(cost):.1f} V {y(accuracy):.1f}" if path else f"M {here}"
            best = accuracy
    if not path:
        return ""
    path += f" H {WIDTH - RIGHT}"
    return (
        f'<path d="{path}" fill="none" stroke="{FRONT}" stroke-opacity="0.5" stroke-width="1.6"/>'
    )


def _about(row: TrialRow) -> str:
    latency = "" if row.cost.latency_ms is None else f", {w.time_text(row.cost.latency_ms)}"
    accuracy = w.accuracy_text(row.accuracy or 0.0, row.interval)
    size = w.bytes_text(row.cost.size_bytes)
    return f"trial {row.number}, {epochs_text(row.epochs)}: {accuracy}, {size}{latency}"
