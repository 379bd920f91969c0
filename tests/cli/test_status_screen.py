from __future__ import annotations

import io
import itertools
import sys
import time

import pytest

from lepton_automl.cli.report.console import Output
from lepton_automl.cli.report.status_screen import sparkline, status_view, watch_status
from lepton_automl.pipeline.status import HostNow, WorkerNow
from tests.helpers.artifacts import verdict
from tests.helpers.rows import status


def shown(found) -> str:
    out = io.StringIO()
    Output(out, width=110).print(status_view(found))
    return out.getvalue()


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_the_screen_tells_workers_rungs_front_leader_and_time():
    text = shown(status())
    assert lines_with(text, "101", "trial 7, rung 1", "4 s", "50%")
    assert lines_with(text, "102", "trial 3, final training", "waits for a latency measurement")
    assert lines_with(text, "103", "idle")
    assert lines_with(text, " 0 ", " 3 ", " 1 ")
    assert lines_with(text, "best so far", "trial 3", "98.10 %", "12.3 kB", "51.2 us")
    assert lines_with(text, "trial 3 ", "98.10 %", "1.2 M")
    assert lines_with(text, "time", "2 min of 10 min; about 8 min left")
    assert lines_with(text, "search", "25%", "trial [3]")
    assert lines_with(text, "hypervolume", "0.8", "▁▄█")
    assert "the worker of trial 1 [x]" in text
    assert "runs/[x]" in text


def test_a_verdict_that_does_not_hold_is_shown_with_its_first_reason():
    def row(**changes):
        text = " ".join(shown(status(verdict=verdict(**changes))).replace("│", " ").split())
        return text.partition("verdict ")[2]

    assert row().startswith("holds ")
    assert row(status="broken", problems=("a [x] is missing",)).startswith(
        "broken: a [x] is missing "
    )
    assert row(status="broken", problems=("one", "two", "three")).startswith(
        "broken: one (and 2 more: lepton verify) "
    )


def test_hosts_are_shown_with_what_they_did_and_why_they_are_lost():
    ready = HostNow("gpu1", "ready", 4, 3, 120, 5.2e6, 812.0, 64.0, 2, "cuda", "")
    lost = HostNow("old [x]", "lost", 2, 0, 7, 1e3, 2e3, 5.0, 1, "cpu", "gave no sign of life")
    busy = WorkerNow(7, "7-1", 4.2, 0.5, False, "gpu1")
    text = shown(status(hosts=(ready, lost), workers=(busy,)))
    assert lines_with(text, "1 on gpu1", "trial 7, rung 1")
    assert lines_with(text, "gpu1", "ready", "3 of 4", "120", "5.20 MB", "812 B", " 2 ")
    assert lines_with(text, "old [x]", "lost", "0 of 2")
    assert "gave no sign" in text


def test_the_copy_of_a_run_is_shown_with_what_is_behind_and_why():
    store = {"place": "s3://b/[x]", "events_behind": 0, "files_behind": 0, "bytes_written": 2_500}
    store |= {"requests": 12, "error": ""}
    text = " ".join(shown(status(store=store)).replace("│", " ").split())
    assert "store s3://b/[x]: all events, 2.5 kB written, 12 requests" in text
    behind = store | {"events_behind": 3, "files_behind": 2, "error": "it is down"}
    text = " ".join(shown(status(store=behind)).replace("│", " ").split())
    assert "3 events and 2 files behind" in text
    assert "it is down" in text


def test_an_interrupted_run_names_the_command_that_continues_it():
    text = shown(status(state="interrupted", workers=(), progress={}))
    assert "no command works on it; the last command was interrupted" in text
    assert "continue with: lepton run digits" in text
    assert "left" not in text.replace("lepton", "")
    called = status(state="interrupted", workers=(), progress={}, command={})
    assert "the same command continues it" in shown(called)
    ended = shown(status(state="ended", workers=(), error="no space left"))
    assert "the last command has ended: no space left" in ended
    assert "continue" not in ended


def test_a_stopped_command_is_told_with_its_process():
    text = shown(status(state="silent", silent_seconds=75.0))
    assert "process 4711 has not reported for 75 s" in text


def test_a_run_that_has_just_begun_is_a_screen_too():
    nothing = {"workers": (), "rungs": (), "found": {}, "progress": {}, "hypervolume": ()}
    text = shown(status(**nothing, messages=(), command={}, events={}))
    assert "none yet" in text


def test_watching_ends_with_the_run_and_reads_until_then(monkeypatch, capsys):
    states = iter(["working", "silent", "working", "ended"])
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    watch_status(lambda: status(state=next(states)), 0.5)
    assert slept == [0.5] * 3
    assert next(states, None) is None
    assert "the last command has ended" in capsys.readouterr().out


def test_ctrl_c_ends_watching_and_gives_the_terminal_back(monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(KeyboardInterrupt):
        watch_status(status)
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41, 1000])
def test_a_sparkline_ends_with_the_newest_value_and_fits(count):
    line = sparkline(list(itertools.accumulate([1.0] * count)))
    assert len(line) == min(count, len(line)) <= 40
    assert list(line) == sorted(line)
    assert line[-1] == ("█" if count > 1 else "▁")


def test_balanced_accuracy_is_called_so():
    balanced = status()
    balanced.definition.balanced = True
    assert "balanced accuracy" in shown(balanced)
    assert "balanced" not in shown(status())
