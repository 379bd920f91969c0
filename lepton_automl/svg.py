"""SVG elements as text: lines, words and the marks of a plot."""

from __future__ import annotations

from html import escape

HALO = ' paint-order="stroke" stroke="#ffffff" stroke-width="4"'
"""Keeps words readable over lines."""
_EDGE = 'stroke="#ffffff" stroke-width="1.3"'


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, opacity: float = 1, width: float = 1
) -> str:
    """A straight line; pixels, `opacity` 0 to 1."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-opacity="{opacity}" stroke-width="{width}"/>'
    )


def text(
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
    """Words that begin, end or have their middle (`anchor`) at `x` and stand on `y`."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}"{more}>{escape(words)}</text>'
    )


def circle(x: float, y: float, radius: float, colour: str, *, opacity: float = 1) -> str:
    """A disc."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" '
        f'fill-opacity="{opacity}" {_EDGE}/>'
    )


def square(x: float, y: float, half: float, colour: str) -> str:
    """A square around a point."""
    return (
        f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half}" height="{2 * half}" '
        f'fill="{colour}" {_EDGE}/>'
    )


def diamond(x: float, y: float, half: float, colour: str) -> str:
    """A square on its tip around a point."""
    tips = ((x, y - half), (x + half, y), (x, y + half), (x - half, y))
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in tips)
    return f'<polygon points="{points}" fill="{colour}" {_EDGE}/>'
