"""Clocks that are set, machines that sleep, files from the future: nothing depends on them.

A run whose end is given by `--trials` makes the same files whatever the clocks say; one with a
budget ends, with an artifact or a message; no duration that is shown or stored is negative.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.faults import scenario as scenarios
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import EXIT_CODES, Scenario, Watched, Work
from tests.faults.truncation import run_states
from tests.faults.warm import Command, Warm

HOUR, YEAR = 3600.0, 365 * 86400.0
STEPS = (-YEAR, -HOUR, -60.0, -1.0, 60.0, HOUR, YEAR)
"""Seconds by which the calendar's clock is set."""
_NEGATIVE = re.compile(r"(?<![\w.])-\d+(?:\.\d+)? ?(?:ms|s|min|h|d)\b|\b-?(?:nan|inf) ?s\b")
CASES = ("set", "set", "jump", "stop", "future")


class Clock:
    """Changed clocks during `run`, with and without a budget, and `status` beside it."""

    name = "clock"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try clocks until the time is over."""
        end, done = time.monotonic() + seconds, Counter[str]()
        warm, commands, name = scenarios.prepared("run")
        work = commands["run"]
        states = run_states(work, warm, name)
        while time.monotonic() < end:
            seed, base = rng.getrandbits(32), name / "case"
            case = random.Random(seed)
            kind = case.choice(CASES)
            start = states[case.choice(sorted(states))] if kind == "future" else work.start
            about, problems = play(kind, case, start.copy(base), work, warm)
            done[kind] += 1
            if problems:
                what = f"{kind}: {'; '.join(problems)}\n{about}"
                findings.save(self.name, base, seed, what)
            shutil.rmtree(base, ignore_errors=True)
        return Summary(done.total(), dict(done))


def play(
    kind: str, rng: random.Random, case: Scenario, work: Work, warm: Warm
) -> tuple[str, list[str]]:
    """One run with changed clocks; what was changed, and what is wrong."""
    patches: list[list[object]] = []
    if kind == "set":
        patches = [["shift_clock", *[(rng.random() * 3, rng.choice(STEPS)) for _ in range(3)]]]
    elif kind == "jump":
        patches = [["jump_monotonic", rng.random() * 3, rng.choice((30.0, HOUR, 48 * HOUR))]]
    elif kind == "future":
        ahead = rng.choice((-20 * YEAR, HOUR, YEAR))
        for path in case.base.rglob("*"):
            os.utime(path, (time.time() + ahead,) * 2)
    has_budget = kind != "future" and rng.random() < 0.5
    arguments = [*work.arguments, *(["--budget", "8s"] if has_budget else [])]
    about = f"{patches}, {' '.join(arguments)}"
    # Files have the time of the real clock, events that of the other one.
    watched = Watched(case.base / work.folder, has_true_times=kind == "stop")
    command = case.start(warm, *arguments, patches=patches)
    shown = ""
    if kind == "stop":
        command.wait(rng.random() * 2)
        _signal_all(command, signal.SIGSTOP)
        time.sleep(1 + rng.random())
        shown = _status(case, warm, [])
        _signal_all(command, signal.SIGCONT)
    elif rng.random() < 0.5 and command.wait(rng.random() * 3) is None:
        shown = _status(case, warm, patches)
    code = command.wait()
    shown += command.out + command.err
    problems = scenarios.message_problems(command, code, EXIT_CODES if has_budget else {0})
    command.destroy()
    warm.forget(command)
    problems += watched.look()
    shown += _status(case, warm, [])
    problems += [f"a negative duration is shown: {text}" for text in _NEGATIVE.findall(shown)[:3]]
    problems += _stored(case.run / "ledger.db")
    if not has_budget:
        problems += scenarios.end_problems(case)
        problems += scenarios.difference(work.made, case.files(work.artifact))
    return about, problems


def _signal_all(command: Command, number: signal.Signals) -> None:
    for pid in command.session():
        command.send(number, pid)


def _status(case: Scenario, warm: Warm, patches: list[list[object]]) -> str:
    """What `lepton status` shows, with and without `--json`; numbers below 0 as text."""
    texts = ""
    for more in ([], ["--json"]):
        command = case.start(warm, "status", "run", *more, patches=patches)
        command.wait()
        found = command.out
        if more and command.wait() == 0:
            names = _negative_names(json.loads(found))
            found = "".join(f" -1 s ({name})" for name in names)
        if "Traceback" in command.err:
            found += f" -1 s ({scenarios.last_line(command.err)})"
        texts += found
        warm.forget(command)
    return texts


def _negative_names(document: object, name: str = "") -> list[str]:
    """Names of seconds below 0 in a document."""
    if isinstance(document, dict):
        return [n for key, value in document.items() for n in _negative_names(value, str(key))]
    if isinstance(document, list):
        return [n for value in document for n in _negative_names(value, name)]
    is_negative = isinstance(document, int | float) and document < 0
    return [name] if is_negative and ("seconds" in name or name.endswith("_s")) else []


def _stored(ledger: Path) -> list[str]:
    """Sessions and events of a ledger that lasted less than no time."""
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as db:
        sessions = [row[0] for row in db.execute("SELECT seconds FROM sessions")]
        events = [row[0] for row in db.execute("SELECT value FROM events")]
    problems = [f"a session lasted {value} s" for value in sessions if value < 0]
    for text in events:
        names = _negative_names(json.loads(text))
        problems += [f"an event has negative {name}" for name in names]
    return problems


KINDS = (Clock(),)
