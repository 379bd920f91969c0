from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Group
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lepton_automl.cli import report
from lepton_automl.cli.report.console import Output
from lepton_automl.cli.report.progress import Lines, Live
from lepton_automl.cli.streams import Escaped, write_error, write_line
from lepton_automl.core.events import Event
from lepton_automl.errors import DataError, MachineError

HOSTILE = "a\x1b[31m\x1b]0;t\x01b\nc\u202ed\x9b2J\u2066\udcff[red]x[/red]\x7f\te"
SHOWN = r"a\x1b[31m\x1b]0;t\x01b\nc\u202ed\x9b2J\u2066\udcff[red]x[/red]\x7f\te"
OF_RICH = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Styles and cursor movements that rich itself writes."""
UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def views():
    table = Table("file", "head", HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE, "bold"), "x")
    return {
        "str": HOSTILE,
        "text": Text(HOSTILE, "red"),
        "parts": Text.assemble("x ", (HOSTILE, "bold red"), HOSTILE),
        "table": table,
        "group": Group(Text(HOSTILE), table),
    }


@pytest.mark.parametrize("kind", views())
@pytest.mark.parametrize("is_terminal", [False, True])
def test_whatever_a_view_holds_only_codes_of_rich_reach_the_stream(kind, is_terminal):
    out = io.StringIO()
    colours = "standard" if is_terminal else None
    Output(out, width=400, force_terminal=is_terminal, color_system=colours).print(views()[kind])
    assert bool(OF_RICH.search(out.getvalue())) == (is_terminal and kind != "str")
    plain = OF_RICH.sub("", out.getvalue())
    assert SHOWN in plain
    assert not UNSAFE.search(plain)
    assert plain.count("\n") == {"table": 6, "group": 7}.get(kind, 1)


class Raw:
    """A view that writes segments past rich's texts."""

    def __rich_console__(self, console, options):
        yield Segment("a\x1b[31m\u202eb\n")


def test_segments_of_other_views_are_escaped():
    out = io.StringIO()
    Output(out, width=80).print(Raw())
    assert out.getvalue() == "a\\x1b[31m\\u202eb\n"


def test_a_table_of_hostile_names_stays_aligned():
    out = io.StringIO()
    Output(out, width=400).print(views()["table"])
    assert len({len(line) for line in out.getvalue().splitlines()[1:]}) == 1


def test_styles_stay_where_they_were():
    out = io.StringIO()
    text = Text.assemble("\x1b", ("ab\x01", "bold"), "\x1b")
    Output(out, force_terminal=True, color_system="standard").print(text)
    assert out.getvalue() == "\\x1b\x1b[1mab\x1b[0m\x1b[1m\\x01\x1b[0m\\x1b\n"


def test_characters_that_the_encoding_lacks_are_escaped_and_the_table_stays_aligned():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    table = Table("label", "n")
    table.add_row("größe", "1")
    Output(out, width=80).print(table)
    out.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert r"gr\xf6\xdfe" in lines[3]
    assert len(set(map(len, lines))) == 1


@pytest.mark.parametrize("make", [Lines, Live])
def test_progress_is_escaped(make, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    screen = make()
    screen.show(Event("search", HOSTILE))
    screen.show(Event("search", HOSTILE, done=1, total=4))
    if make is Live:
        monkeypatch.setenv("COLUMNS", "400")
        with screen:
            pass
    assert SHOWN in stream.getvalue().replace("\n", "") or make is Live
    assert not UNSAFE.search(stream.getvalue())
    assert stream.getvalue().count("[red]x[/red]") >= 1


@pytest.mark.parametrize("write", [report.show_error, write_error])
def test_an_error_is_one_line_for_each_of_its_parts(write, capsys):
    write(DataError(HOSTILE, fix=HOSTILE))
    assert capsys.readouterr().err == f"error: {SHOWN}\nfix: {SHOWN}\n"


def test_an_example_in_a_fix_keeps_its_lines(capsys):
    report.show_error(
        DataError("no size", fix="state it, for instance\n    size = [2, 2]\n  or so")
    )
    assert capsys.readouterr().err.splitlines() == [
        "error: no size",
        "fix: state it, for instance",
        "    size = [2, 2]",
        "  or so",
    ]


def test_text_that_other_code_writes_to_a_prepared_stream_is_escaped():
    out = io.StringIO()
    stream = Escaped(out, is_output=True)
    print(HOSTILE, file=stream)
    assert out.getvalue() == SHOWN.replace(r"\n", "\n") + "\n"


class Full(io.StringIO):
    """A stream of a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


class Closed(io.StringIO):
    """A pipe without a reader."""

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


def test_standard_output_that_is_full_is_an_error_and_a_closed_pipe_is_not(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(MachineError, match="standard output cannot be written: No space"):
        write_line("a")
    with pytest.raises(MachineError):
        report.show(Text("a"))
    monkeypatch.setattr(sys, "stdout", Closed())
    write_line("a")
    report.show(Text("a"))


@pytest.mark.parametrize("stream", [Full, Closed])
def test_work_goes_on_where_standard_error_cannot_be_written(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with report.screen() as emit:
        emit(Event("search", "starts"))
    report.show_error(DataError("a", fix="b"))
