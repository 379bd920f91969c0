"""The ladder of a compression as an SVG file: every step, what it costs and whether it was kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

from lepton_automl import durable, svg
from lepton_automl import wording as w
from lepton_automl.front_plot import (
    BOTTOM,
    CHOSEN,
    FAINT,
    FRONT,
    GRID,
    HEIGHT,
    INK,
    LEFT,
    RIGHT,
    ROOM,
    TOP,
    WIDTH,
    Scale,
    cost_steps,
)

FILE = "compression.svg"
LEAST_POINTS = 1.0
"""Height of the field, in accuracy points, at least."""


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


def write(folder: Path, steps: Sequence[Tried]) -> Path:
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
    return durable.write(folder / FILE, draw(steps, folder.resolve().name))


def draw(steps: Sequence[Tried], name: str) -> str:
    """The drawing as SVG: accuracy on validation over latency, or bytes, of the int8 file."""
    is_timed = all(step.latency_ms is not None for step in steps)
    costs = [(step.latency_ms if is_timed else step.size_bytes) or 1.0 for step in steps]
    x, y = _across(costs), _upward(steps)
    shipped = max(place for place, step in enumerate(steps) if step.is_accepted)
    text = w.time_text if is_timed else w.bytes_text
    label = "latency of the int8 file" if is_timed else "bytes of the int8 file"
    parts = [*_frame(x, y, text, f"{label}, less is better", name), _path(steps, costs, x, y)]
    for place, (step, cost) in enumerate(zip(steps, costs, strict=True)):
        kind = "shipped" if place == shipped else "kept" if step.is_accepted else "put back"
        parts.append(_mark(step, x(cost), y, kind))
    body = "\n".join(part for part in parts if part)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="system-ui, Helvetica, Arial, sans-serif" '
        f'font-size="13">\n<title>{escape(name)}: steps of its compression</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _across(costs: Sequence[float]) -> Scale:
    low, high = math.log(min(costs)), math.log(max(costs))
    room = max(ROOM * (high - low), 0.08)
    return Scale(math.log, low - room, high + room, LEFT, WIDTH - RIGHT)


def _upward(steps: Sequence[Tried]) -> Scale:
    ends = [end for step in steps for end in (step.accuracy, *(step.interval or ()))]
    low, high = min(ends), max(ends)
    room = max((LEAST_POINTS / 100 - (high - low)) / 2, ROOM * (high - low))
    return Scale(lambda accuracy: accuracy, low - room, high + room, HEIGHT - BOTTOM, TOP)


def _frame(x: Scale, y: Scale, text: Callable[[float], str], label: str, name: str) -> list[str]:
    """Title, legend, grid and axes."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [svg.text(LEFT, 28, f"{name}: steps of its compression", INK, size=17, weight=600)]
    at = LEFT + 6.0
    for kind in ("shipped", "kept", "put back"):
        parts += [_shape(kind, at, 50), svg.text(at + 12, 54, kind, FAINT)]
        at += 40 + 6.6 * len(kind)
    for share in _heights(y):
        parts.append(svg.line(LEFT, y(share), right, y(share), GRID))
        parts.append(svg.text(LEFT - 10, y(share) + 4, f"{100 * share:g} %", FAINT, anchor="end"))
    for step in cost_steps(math.exp(x.low), math.exp(x.high)):
        parts.append(svg.line(x(step), TOP, x(step), bottom, GRID))
        parts.append(svg.text(x(step), bottom + 20, text(step), FAINT, anchor="middle"))
    parts.append(svg.line(LEFT, bottom, right, bottom, FAINT))
    parts.append(svg.line(LEFT, TOP, LEFT, bottom, FAINT))
    turned = f' transform="rotate(-90 20 {(TOP + bottom) / 2:.1f})"'
    words = "accuracy on validation, 95 % interval"
    parts.append(svg.text(20, (TOP + bottom) / 2, words, INK, anchor="middle", more=turned))
    parts.append(svg.text((LEFT + right) / 2, HEIGHT - 16, label, INK, anchor="middle"))
    return parts


def _heights(y: Scale) -> list[float]:
    """Round shares inside the field, five or so."""
    wanted = (y.high - y.low) / 5
    step = min(
        (d * 10.0**p for p in range(-5, 1) for d in (1, 2, 5)), key=lambda s: abs(s - wanted)
    )
    first = math.ceil(y.low / step)
    every = [round(n * step, 6) for n in range(first, first + 40)]
    return [share for share in every if y.low <= share <= min(y.high, 1.0)]


def _path(steps: Sequence[Tried], costs: Sequence[float], x: Scale, y: Scale) -> str:
    """From one step that was kept to the next."""
    kept = [(x(c), y(s.accuracy)) for s, c in zip(steps, costs, strict=True) if s.is_accepted]
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in kept)
    return (
        f'<polyline points="{points}" fill="none" stroke="{FRONT}" stroke-opacity="0.5" '
        'stroke-width="1.6"/>'
    )


def _mark(step: Tried, x: float, y: Scale, kind: str) -> str:
    colour = {"shipped": CHOSEN, "kept": FRONT}.get(kind, FAINT)
    latency = "" if step.latency_ms is None else f", {w.time_text(step.latency_ms)}"
    about = (
        f"{step.name}, {kind}: {w.accuracy_text(step.accuracy, step.interval)}, "
        f"{w.bytes_text(step.size_bytes)}{latency}; {step.why}"
    )
    low, high = step.interval or (step.accuracy, step.accuracy)
    is_left = x > WIDTH - 150
    return "".join(
        [
            f"<g><title>{escape(about)}</title>",
            svg.line(x, y(low), x, y(high), colour, opacity=0.45, width=1.6),
            _shape(kind, x, y(step.accuracy)),
            svg.text(
                x + (-12 if is_left else 12),
                y(step.accuracy) + (22 if kind == "shipped" else -9),
                step.name,
                colour,
                anchor="end" if is_left else "start",
                more=svg.HALO,
            ),
            "</g>",
        ]
    )


def _shape(kind: str, x: float, y: float) -> str:
    if kind == "shipped":
        return svg.diamond(x, y, 8, CHOSEN)
    if kind == "kept":
        return svg.circle(x, y, 5.5, FRONT)
    return svg.circle(x, y, 4.5, FAINT, opacity=0.45)
