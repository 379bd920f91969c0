"""SVG charts of the Pareto front and of the compression steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lepton_automl.artifact import formatting
from lepton_automl.core import files, units
from lepton_automl.core.files import real_path
from lepton_automl.core.units import epochs_text
from lepton_automl.search.request import TrialRow
from lepton_automl.text import markup

WIDTH, HEIGHT = 820, 500
LEFT, RIGHT, TOP, BOTTOM = 92, 28, 76, 62
"""Margins of the plot area, pixels."""
ROOM = 0.06
"""Share of the plot area kept free at its edges."""
LEAST_STEPS, MOST_STEPS = 3, 9
"""Number of ticks on the cost axis."""
INK, FAINT, GRID, BLUE, ORANGE, GREEN = (
    "#22272e",
    "#6b7480",
    "#e6e9ed",
    "#2f6fb3",
    "#d9480f",
    "#2b8a3e",
)
HALO = ' paint-order="stroke" stroke="#ffffff" stroke-width="4"'
"""White outline that keeps text readable over lines."""
_EDGE = 'stroke="#ffffff" stroke-width="1.3"'
_FRONT_CHART = "front.svg"
STEPS = (
    *(0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99, 99.5, 99.8),
    *(99.9, 99.95, 99.98),
)
"""Possible ticks of the accuracy axis, per cent."""
GAP = 24
"""Minimum distance of two ticks on the accuracy axis, pixels."""
STEPS_CHART = "compression.svg"
LEAST_POINTS = 1.0
"""Minimum height of the plot area, accuracy points."""


def svg_line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, opacity: float = 1, width: float = 1
) -> str:
    """A straight line; pixels, `opacity` 0 to 1."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-opacity="{opacity}" stroke-width="{width}"/>'
    )


def svg_text(
    x: float,
    y: float,
    words: str,
    colour: str,
    *,
    size: int = 13,
    weight: int = 400,
    anchor: str = "start",
    more: str = "",
) -> str:
    """Text with its start, end or middle (`anchor`) at `x` and its baseline at `y`."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}"{more}>{markup(words)}</text>'
    )


def svg_circle(x: float, y: float, radius: float, colour: str, *, opacity: float = 1) -> str:
    """A filled circle."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" '
        f'fill-opacity="{opacity}" {_EDGE}/>'
    )


def svg_square(x: float, y: float, half: float, colour: str) -> str:
    """A square around a point."""
    return (
        f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half}" height="{2 * half}" '
        f'fill="{colour}" {_EDGE}/>'
    )


def svg_diamond(x: float, y: float, half: float, colour: str) -> str:
    """A diamond around a point."""
    tips = ((x, y - half), (x + half, y), (x, y + half), (x - half, y))
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in tips)
    return f'<polygon points="{points}" fill="{colour}" {_EDGE}/>'


@dataclass(frozen=True)
class Scale:
    """Axis scale: maps a value to pixels, linear in a transform of the value."""

    of: Callable[[float], float]
    """The transform, such as the logarithm."""
    low: float
    high: float
    """Ends of the transformed range."""
    start: float
    end: float
    """Pixels."""

    def __call__(self, value: float) -> float:
        share = (self.of(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Shape:
    """The marker of one kind of point."""

    draw: Callable[..., str]
    """`circle`, `square` or `diamond`."""
    size: float
    """Radius or half side, pixels."""
    colour: str
    opacity: float = 1

    def __call__(self, x: float, y: float) -> str:
        """The mark at a point, pixels."""
        faded = {} if self.opacity == 1 else {"opacity": self.opacity}
        return self.draw(x, y, self.size, self.colour, **faded)


def chart(title: str, heading: str, parts: Sequence[str]) -> str:
    """The whole file.

    Parameters
    ----------
    title : str
        What a screen reader and a browser's tab show.
    heading : str
        Shown above the field.
    parts : sequence of str
        Elements; empty ones are left out.
    """
    top = svg_text(LEFT, 28, heading, INK, size=17, weight=600)
    body = "\n".join(part for part in (top, *parts) if part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="system-ui, Helvetica, Arial, sans-serif" '
        f'font-size="13">\n<title>{markup(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def legend(shapes: Sequence[tuple[str, Shape]]) -> list[str]:
    """Legend above the plot area."""
    parts, at = [], LEFT + 6.0
    for words, shape in shapes:
        parts += [shape(at, 50), svg_text(at + 12, 54, words, FAINT)]
        at += 37 + 6.6 * len(words)
    return parts


def axes(
    across: Sequence[tuple[float, str]], upward: Sequence[tuple[float, str]], x: str, y: str
) -> list[str]:
    """Grid, axes and their labels.

    Parameters
    ----------
    across, upward : sequence of (float, str)
        Pixels and words of the names on each axis.
    x, y : str
        Titles.
    """
    bottom, right, middle = HEIGHT - BOTTOM, WIDTH - RIGHT, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for at, words in upward:
        parts.append(svg_line(LEFT, at, right, at, GRID))
        parts.append(svg_text(LEFT - 10, at + 4, words, FAINT, anchor="end"))
    for at, words in across:
        parts.append(svg_line(at, TOP, at, bottom, GRID))
        parts.append(svg_text(at, bottom + 20, words, FAINT, anchor="middle"))
    parts.append(svg_line(LEFT, bottom, right, bottom, FAINT))
    parts.append(svg_line(LEFT, TOP, LEFT, bottom, FAINT))
    turned = f' transform="rotate(-90 20 {middle:.1f})"'
    parts.append(svg_text(20, middle, y, INK, anchor="middle", more=turned))
    parts.append(svg_text((LEFT + right) / 2, HEIGHT - 16, x, INK, anchor="middle"))
    return parts


def mark(
    shape: Shape,
    at: tuple[float, float],
    ends: tuple[float, float],
    about: str,
    words: str = "",
    *,
    below: bool = False,
    weight: int = 400,
) -> str:
    """A point with its interval, a tooltip and an optional label.

    Parameters
    ----------
    shape : Shape
        Its mark.
    at : (float, float)
        Pixels.
    ends : (float, float)
        Of the interval, pixels: low and high.
    about : str
        The tooltip.
    words : str
        Beside the mark; on its left near the right edge.
    below : bool
        Whether they are below it and not above.
    weight : int
        Of the words' font.
    """
    x, y = at
    low, high = min(ends[0], HEIGHT - BOTTOM), max(ends[1], TOP)
    parts = [svg_line(x, low, x, high, shape.colour, opacity=0.45, width=1.6), shape(x, y)]
    if words:
        is_left = x > WIDTH - 190
        parts.append(
            svg_text(
                x + (-13 if is_left else 13),
                y + (22 if below else -9),
                words,
                shape.colour,
                weight=weight,
                anchor="end" if is_left else "start",
                more=HALO,
            )
        )
    return f"<g><title>{markup(about)}</title>{''.join(parts)}</g>"


def across(costs: Collection[float]) -> Scale:
    """The logarithmic axis of costs, all above 0."""
    low, high = math.log(min(costs)), math.log(max(costs))
    room = max(ROOM * (high - low), 0.08)
    return Scale(math.log, low - room, high + room, LEFT, WIDTH - RIGHT)


def cost_names(
    x: Scale, words: Callable[[float], str], costs: Collection[float]
) -> list[tuple[float, str]]:
    """Positions, pixels, and labels of the cost ticks."""
    steps = cost_steps(math.exp(x.low), math.exp(x.high)) or [min(costs)]
    return [(x(step), words(step)) for step in steps]


def cost_steps(low: float, high: float) -> list[float]:
    """Round tick values from `low` to `high`, both above 0; at least three if there are."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(n / 10 for n in range(10, 100))):
        every = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        found = [step for step in every if low <= step <= high]
        if len(found) >= LEAST_STEPS:
            break
    return found[:: math.ceil(len(found) / MOST_STEPS)] if found else found


CHOSEN = Shape(svg_diamond, 8, ORANGE)

PICKED = Shape(svg_square, 5.5, GREEN)

FRONT = Shape(svg_circle, 5.5, BLUE)

OTHER = Shape(svg_circle, 3.2, FAINT, 0.45)


def write_front_chart(
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
    name = real_path(folder).name
    text = front_chart(trained, {row.number for row in front}, chosen, picked, name, measure)
    return files.write(folder / _FRONT_CHART, text)


def front_chart(
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
    text = units.time_text if is_timed else units.bytes_text
    label = (
        formatting.latency_title(rows[0].cost.latency_basis)
        if is_timed
        else "bytes of the int8 file"
    )
    x, y = across(costs.values()), _upward(rows)
    marked = [row for row in rows if row.number in front or row.number in {chosen, *picked}]
    kinds = [("chosen", CHOSEN), ("picked", PICKED), ("front, 95 % interval", FRONT)]
    shapes = [kind for kind in kinds if kind[1] is not PICKED or picked]
    heights = _heights(y, is_perfect=any(row.accuracy == 1.0 for row in rows))
    parts = [
        *legend([*shapes, ("other candidates", OTHER)]),
        *axes(
            cost_names(x, text, costs.values()),
            heights,
            f"{label}, less is better",
            f"{measure} on validation",
        ),
        *(
            _dot(x(costs[r.number]), y(r.accuracy or 0.0), _about(r))
            for r in rows
            if r not in marked
        ),
        _stairs([(costs[r.number], r.accuracy or 0.0) for r in rows if r.number in front], x, y),
    ]
    for row in sorted(marked, key=lambda r: (r.number == chosen, r.number in picked)):
        is_picked = row.number in picked
        shape = CHOSEN if row.number == chosen else PICKED if is_picked else FRONT
        parts.append(_mark(row, x(costs[row.number]), y, shape))
    title = f"{name}: {measure} against {label}"
    return chart(title, f"{name}: what the search found", parts)


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


def _heights(y: Scale, *, is_perfect: bool) -> list[tuple[float, str]]:
    """Positions, pixels, and labels of the accuracy ticks, at a minimum distance."""
    found = [(y(1.0), "100 %")] if is_perfect else []
    for percent in STEPS:
        at = y(percent / 100)
        is_inside = TOP <= at <= HEIGHT - BOTTOM
        if is_inside and all(abs(at - other) >= GAP for other, _ in found):
            found.append((at, f"{percent:g} %"))
    return found


def _mark(row: TrialRow, x: float, y: Scale, shape: Shape) -> str:
    accuracy = row.accuracy or 0.0
    low, high = row.interval or (accuracy, accuracy)
    words = f"trial {row.number}: {accuracy:.1%}, {units.bytes_text(row.cost.size_bytes)}"
    named = "" if shape is FRONT else words
    return mark(shape, (x, y(accuracy)), (y(low), y(high)), _about(row), named, weight=600)


def _dot(x: float, y: float, about: str) -> str:
    return f"<g><title>{markup(about)}</title>{OTHER(x, y)}</g>"


def _stairs(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Staircase of the Pareto front: a step at every point better than all cheaper ones."""
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
        f'<path d="{path}" fill="none" stroke="{FRONT.colour}" stroke-opacity="0.5" '
        'stroke-width="1.6"/>'
    )


def _about(row: TrialRow) -> str:
    latency = "" if row.cost.latency_ms is None else f", {units.time_text(row.cost.latency_ms)}"
    accuracy = units.accuracy_text(row.accuracy or 0.0, row.interval)
    size = units.bytes_text(row.cost.size_bytes)
    return f"trial {row.number}, {epochs_text(row.epochs)}: {accuracy}, {size}{latency}"


SHAPES = {
    "shipped": Shape(svg_diamond, 8, ORANGE),
    "accepted": Shape(svg_circle, 5.5, BLUE),
    "rejected": Shape(svg_circle, 4.5, FAINT, 0.45),
}


class Tried(Protocol):
    """A step of a compression."""

    @property
    def name(self) -> str: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def is_accepted(self) -> bool: ...
    @property
    def why(self) -> str: ...


def write_compression_chart(folder: Path, steps: Sequence[Tried]) -> Path:
    """Draw the steps into `folder`/compression.svg.

    Parameters
    ----------
    folder : Path
        The run folder.
    steps : sequence
        At least one; the last one accepted is what ships.

    Raises
    ------
    MachineError
        If the file cannot be written.
    """
    return files.write(folder / STEPS_CHART, compression_chart(steps, real_path(folder).name))


def compression_chart(steps: Sequence[Tried], name: str) -> str:
    """The drawing as SVG: accuracy on validation over latency, or bytes, of the int8 file."""
    is_timed = all(step.latency_ms is not None for step in steps)
    costs = [(step.latency_ms if is_timed else step.size_bytes) or 1.0 for step in steps]
    x, y = across(costs), _upward_of_steps(steps)
    shipped = max(place for place, step in enumerate(steps) if step.is_accepted)
    text = units.time_text if is_timed else units.bytes_text
    label = "latency of the int8 file" if is_timed else "bytes of the int8 file"
    parts = [
        *legend(list(SHAPES.items())),
        *axes(
            cost_names(x, text, costs),
            [(y(share), f"{100 * share:g} %") for share in _heights_of_steps(y)],
            f"{label}, less is better",
            "accuracy on validation, 95 % interval",
        ),
        _path_of_steps(steps, costs, x, y),
    ]
    for place, (step, cost) in enumerate(zip(steps, costs, strict=True)):
        kind = "shipped" if place == shipped else "accepted" if step.is_accepted else "rejected"
        parts.append(_mark_of_steps(step, x(cost), y, kind))
    title = f"{name}: steps of its compression"
    return chart(title, title, parts)


def _upward_of_steps(steps: Sequence[Tried]) -> Scale:
    ends = [end for step in steps for end in (step.accuracy, *(step.interval or ()))]
    low, high = min(ends), max(ends)
    room = max((LEAST_POINTS / 100 - (high - low)) / 2, ROOM * (high - low))
    return Scale(lambda accuracy: accuracy, low - room, high + room, HEIGHT - BOTTOM, TOP)


def _heights_of_steps(y: Scale) -> list[float]:
    """Round tick values inside the plot area, about five."""
    wanted = (y.high - y.low) / 5
    step = min(
        (d * 10.0**p for p in range(-5, 1) for d in (1, 2, 5)), key=lambda s: abs(s - wanted)
    )
    first = math.ceil(y.low / step)
    every = [round(n * step, 6) for n in range(first, first + 40)]
    return [share for share in every if y.low <= share <= min(y.high, 1.0)]


def _path_of_steps(steps: Sequence[Tried], costs: Sequence[float], x: Scale, y: Scale) -> str:
    """Line through the accepted steps."""
    kept = [(x(c), y(s.accuracy)) for s, c in zip(steps, costs, strict=True) if s.is_accepted]
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in kept)
    return (
        f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-opacity="0.5" '
        'stroke-width="1.6"/>'
    )


def _mark_of_steps(step: Tried, x: float, y: Scale, kind: str) -> str:
    latency = "" if step.latency_ms is None else f", {units.time_text(step.latency_ms)}"
    about = (
        f"{step.name}, {kind}: {units.accuracy_text(step.accuracy, step.interval)}, "
        f"{units.bytes_text(step.size_bytes)}{latency}; {step.why}"
    )
    low, high = step.interval or (step.accuracy, step.accuracy)
    return mark(
        SHAPES[kind],
        (x, y(step.accuracy)),
        (y(low), y(high)),
        about,
        step.name,
        below=kind == "shipped",
    )
