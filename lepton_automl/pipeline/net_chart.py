"""SVG of a net: a row for each layer with its bytes, multiply-accumulates, time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton_automl.core import units
from lepton_automl.cost.inspection import Inspection
from lepton_automl.cost.layer_table import LayerRow
from lepton_automl.pipeline.charts import (
    BLUE,
    FAINT,
    GREEN,
    GRID,
    INK,
    ORANGE,
    svg_line,
    svg_text,
)
from lepton_automl.text import markup, printable

_ROW, _BOX = 34, 25
"""Heights of a row and of the box in it, pixels."""
_LEFT, _TOP, _BOTTOM = 92, 104, 40
_BOX_WIDTH, _BAR, _GAP, _MEMORY = 400, 116, 26, 280
"""Widths of a box, of a bar, of the space between columns and of the bars of memory, pixels."""
_FILL, _LINE, _TIME = "#f3f6fa", "#c9d3df", "#7950a8"
_OTHERS = ("#9db8d9", "#b9cbe3", "#d2deee")
"""Feature maps that are kept for a later layer, from the oldest."""


@dataclass(frozen=True)
class _Column:
    """Bars beside the boxes."""

    title: str
    value: Callable[[LayerRow], float]
    words: Callable[[float], str]
    total: float
    colour: str


def draw_net(found: Inspection, name: str) -> str:
    """The drawing.

    Parameters
    ----------
    found : Inspection
        An inspected file.
    name : str
        Of the file.
    """
    columns = _columns(found)
    at = _LEFT + _BOX_WIDTH + _GAP
    memory_at = at + len(columns) * (_BAR + _GAP)
    width, height = memory_at + _MEMORY + 40, _TOP + _ROW * (len(found.layers) + 1) + _BOTTOM
    parts = [*_head(found, name, memory_at), _input(found)]
    for number, column in enumerate(columns):
        parts += _bars(found.layers, column, at + number * (_BAR + _GAP))
    parts += _memory(found, memory_at)
    parts += _edges(found.layers)
    parts += [_box(layer, number) for number, layer in enumerate(found.layers)]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="system-ui, Helvetica, Arial, sans-serif" '
        f'font-size="13">\n<title>{markup(f"layers of {name}")}</title>\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _columns(found: Inspection) -> list[_Column]:
    columns = [
        _Column(
            "parameters",
            lambda layer: layer.parameter_bytes,
            units.bytes_text,
            found.parameter_bytes,
            BLUE,
        ),
        _Column("MACs", lambda layer: layer.macs, units.count_text, found.macs, GREEN),
    ]
    table = found.kernels
    if table is not None:
        # A kernel that computes several layers stands in the row of the first of them.
        times = {k.layers[0]: k.microseconds for k in table.kernels if k.layers}
        columns.append(
            _Column(
                "time here",
                lambda layer: times.get(layer.name, 0.0),
                lambda value: units.time_text(value / 1e3),
                table.call_microseconds,
                _TIME,
            )
        )
    return columns


def _y(number: int) -> float:
    """Middle of the row of a layer; -1 is the input."""
    return _TOP + _ROW * (number + 1) + _ROW / 2


def _head(found: Inspection, name: str, memory_at: float) -> list[str]:
    shown = printable(name)
    shown = shown if len(shown) <= 70 else f"... {shown[-66:]}"
    about = f"{', '.join(found.inputs)}, {units.bytes_text(found.file_bytes)} file"
    peak = 0 if found.peak is None else found.peak.ram_bytes
    words = f"feature maps alive: {units.bytes_text(peak)} at most"
    return [
        svg_text(20, 30, shown, INK, size=17, weight=600),
        svg_text(20, 52, about, FAINT),
        svg_text(memory_at, _TOP - 22, words, INK),
        svg_line(20, _TOP - 10, memory_at + _MEMORY + 20, _TOP - 10, FAINT),
    ]


def _input(found: Inspection) -> str:
    words = found.inputs[0] if found.inputs else "input"
    return svg_text(_LEFT + 10, _y(-1) + 5, _cut(words, 48), FAINT)


def _box(layer: LayerRow, number: int) -> str:
    y = _y(number)
    shape = "x".join(map(str, layer.shape))
    about = f"{layer.name}: {layer.kind}, gives {shape or 'an unknown shape'}"
    about += f", {layer.parameter_bytes} B of parameters, {layer.macs} multiply-accumulates"
    return (
        f"<g><title>{markup(about)}</title>"
        f'<rect x="{_LEFT}" y="{y - _BOX / 2:.1f}" width="{_BOX_WIDTH}" height="{_BOX}" rx="5" '
        f'fill="{_FILL}" stroke="{_LINE}"/>'
        + svg_text(_LEFT + 10, y + 5, _cut(layer.name, 20), INK, weight=600)
        + svg_text(_LEFT + 150, y + 5, _cut(layer.kind, 25), INK, size=12)
        + svg_text(_LEFT + _BOX_WIDTH - 8, y + 5, shape, FAINT, size=12, anchor="end")
        + "</g>"
    )


def _cut(words: str, most: int) -> str:
    shown = printable(words)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _edges(layers: Sequence[LayerRow]) -> list[str]:
    """A line from each layer to those that read it; one that skips layers runs on the left."""
    place = {layer.name: number for number, layer in enumerate(layers)} | {"": -1}
    found = []
    for number, layer in enumerate(layers):
        for name in layer.reads:
            start = place.get(name)
            if start is None or start >= number:
                continue
            if start == number - 1:
                x = _LEFT + _BOX_WIDTH / 2
                top = _y(start) + (_BOX / 2 if start >= 0 else 8)
                found.append(svg_line(x, top, x, _y(number) - _BOX / 2, FAINT, width=1.4))
            else:
                found.append(_skip(start, number))
    return found


def _skip(start: int, end: int) -> str:
    """A curve on the left, further out the more layers it skips."""
    bulge = min(14 + 9 * (end - start), _LEFT - 16)
    top, bottom = _y(start), _y(end)
    return (
        f'<path d="M{_LEFT} {top:.1f} C{_LEFT - bulge} {top:.1f} {_LEFT - bulge} {bottom:.1f} '
        f'{_LEFT} {bottom:.1f}" fill="none" stroke="{FAINT}" stroke-width="1.4"/>'
    )


def _bars(layers: Sequence[LayerRow], column: _Column, x: float) -> list[str]:
    most = max((column.value(layer) for layer in layers), default=0) or 1
    parts = [
        svg_text(x, _TOP - 40, column.title, INK),
        svg_text(x, _TOP - 22, column.words(column.total), FAINT),
    ]
    for number, layer in enumerate(layers):
        value, y = column.value(layer), _y(number)
        if not value:
            continue
        width = max(1.0, (_BAR - 56) * value / most)
        parts.append(_rect(x, y - 7, width, 14, column.colour))
        parts.append(svg_text(x + width + 5, y + 4, column.words(value), FAINT, size=12))
    return parts


def _memory(found: Inspection, x: float) -> list[str]:
    """What is alive while each layer runs, the layer's own result last and darkest."""
    peak = found.peak
    if peak is None or not peak.ram_bytes:
        return []
    scale = (_MEMORY - 60) / peak.ram_bytes
    parts = [svg_line(x + _MEMORY - 60, _TOP, x + _MEMORY - 60, _y(len(found.layers)) - 20, GRID)]
    for number, layer in enumerate(found.layers):
        at, y = x, _y(number)
        is_peak = layer.ram_bytes == peak.ram_bytes
        for place, (name, size) in enumerate(layer.alive):
            own = name == layer.name
            colour = (ORANGE if is_peak else BLUE) if own else _OTHERS[place % len(_OTHERS)]
            about = f"result of {name}" if name else "input"
            words = f"<title>{markup(f'{about}, {size} B')}</title>"
            parts.append(_rect(at, y - 9, max(0.5, size * scale), 18, colour, words))
            at += size * scale
        if layer.alive:
            words = units.bytes_text(layer.ram_bytes) + (" peak" if is_peak else "")
            words += ", in place" if layer.is_in_place and not is_peak else ""
            parts.append(svg_text(at + 6, y + 4, words, ORANGE if is_peak else FAINT, size=12))
    return parts


def _rect(x: float, y: float, width: float, height: float, colour: str, inside: str = "") -> str:
    head = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"'
    return f"{head}>{inside}</rect>" if inside else f"{head}/>"
