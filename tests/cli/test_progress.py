from __future__ import annotations

import io

import pytest

from lepton_automl.cli.report import progress
from lepton_automl.cli.report.progress import Live, screen, share_done
from lepton_automl.core.events import Event
from lepton_automl.errors import ConfigError


def test_without_a_terminal_each_message_is_a_line_and_progress_is_rare(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with screen() as emit:
        emit(Event("search", "starts"))
        for step in range(50):
            emit(Event("search", f"step {step}", done=step, total=50))
        emit(Event("search", "all done", done=50, total=50))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(maxsplit=2)[2] for line in lines] == ["starts", "0% step 0", "100% all done"]


def test_a_stage_prints_its_progress_once_a_minute(capsys, monkeypatch):
    now = iter([0.0, 1.0, 2.0, 3.0, 4.0, 70.0, 71.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    lines = progress.Lines()
    lines.show(Event("search", "a", done=1, total=9))
    lines.show(Event("search", "b", done=2, total=9))
    lines.show(Event("final", "d", done=1, total=2))
    lines.show(Event("search", "e", done=3, total=9))
    lines.show(Event("search", "c", done=9, total=9))
    lines.show(Event("search", "c", done=9, total=9))
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["a", "d", "c"]


@pytest.mark.parametrize("make", [progress.Lines, Live])
def test_details_are_shown_with_verbose_only(make, monkeypatch):
    shown = {}
    for verbose in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        screen_of = make(verbose=verbose)
        screen_of.show(Event("compress", "method A", is_detail=True))
        screen_of.show(Event("compress", "the step"))
        shown[verbose] = "method A" in stream.getvalue()
        assert "the step" in stream.getvalue()
    assert shown == {False: False, True: True}


def test_quiet_and_verbose_exclude_each_other():
    with (
        pytest.raises(ConfigError, match="--quiet and --verbose"),
        screen(quiet=True, verbose=True),
    ):
        pass


def test_quiet_prints_nothing(capsys):
    with screen(quiet=True) as emit:
        emit(Event("search", "starts"))
    assert capsys.readouterr() == ("", "")


def test_a_live_screen_shows_one_bar_per_stage(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with Live() as live:
        live.show(Event("search", "trial 1", done=1, total=4))
        live.show(Event("search", "[not markup]", done=2, total=4))
        live.show(Event("compress", "cut [a]"))
    assert "compress" in stream.getvalue()
    assert "cut [a]" in stream.getvalue()


def test_the_share_done_is_between_zero_and_one():
    assert share_done(Event("s", "m", done=5, total=4)) == 1.0
    assert share_done(Event("s", "m", done=1, total=0)) == 0.0
    assert share_done(Event("s", "m")) == 0.0
