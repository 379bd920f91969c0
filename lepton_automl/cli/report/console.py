"""Write views of rich to stdout and stderr: the only place that makes a rich console."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from lepton_automl.cli.streams import Unescaped, unescaped
from lepton_automl.errors import LeptonError
from lepton_automl.text import LONGEST, UNSAFE, encodable, printable, printable_lines

_WIDTH = 120
"""Columns where the output is not a terminal."""


class Output(Console):
    """A console that escapes text; only its own styles and cursor movements reach the terminal.

    Text is escaped before it is laid out, so that tables stay aligned, and on its way out. A `str`
    holds no markup, and a `Text` is one line.

    Parameters
    ----------
    stream : text stream
        `sys.stdout` or `sys.stderr`.
    options
        Those of `Console`.
    """

    def __init__(self, stream: TextIO, **options: Any) -> None:
        self.target: Unescaped = unescaped(stream)
        file = cast("TextIO", self.target)
        super().__init__(file=file, markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = self._escaped(renderable)
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(self._visible(text), style)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(self._visible(printable(text)), **options)

    def _visible(self, text: str) -> str:
        return encodable(printable_lines(text), self.encoding)

    def _escaped(self, text: Text) -> Text:
        """A printable copy with the same styles."""
        if len(text) > LONGEST:
            return Text(printable(text.plain), text.style)
        made, start = text.blank_copy(), 0
        for found in UNSAFE.finditer(text.plain):
            made.append_text(text[start : found.start()])
            made.append(printable(found[0]), text.get_style_at_offset(self, found.start()))
            start = found.end()
        return made.append_text(text[start:]) if start else text


def show(view: RenderableType, *, to_stderr: bool = False) -> None:
    """Print a view on stdout, or on stderr without breaking lines.

    Raises
    ------
    MachineError
        If stdout cannot be written.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    output = Output(stream, width=None if stream.isatty() else _WIDTH)
    output.print(view, soft_wrap=to_stderr)
    output.target.flush()


def error_view(error: LeptonError) -> RenderableType:
    """What is wrong and the way out."""
    # Examples follow on lines of their own, which are indented.
    fix, *examples = error.fix.split("\n  ")
    return Group(
        Text.assemble(("error: ", "bold red"), error.what),
        Text.assemble(("fix: ", "bold"), fix),
        *(Text(f"  {line}") for line in examples),
    )
