"""Files of a run folder and of an artifact, cut off at an offset: commands say so and end cleanly.

A run that is resumed either makes what the undisturbed one made or refuses with a message.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from tests.faults import scenario as scenarios
from tests.faults import warm as shim
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import EXIT_CODES, Scenario, Work
from tests.faults.warm import Warm

PREDICT = ["predict", "run", "picture.png"]
REFUSALS = EXIT_CODES - {0}
_STOPS = (0.35, 0.6, 0.8, 0.95)
"""Shares of the operations after which a run is killed, for states of a run in progress."""


class Truncation:
    """Every file of a finished run and of some that were killed; random files and offsets."""

    name = "truncation"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Cut files off until the time is over or every offset has been tried."""
        end, done = time.monotonic() + seconds, Counter[str]()
        warm, commands, name = scenarios.prepared("run")
        work = commands["run"]
        states = run_states(work, warm, name)
        cases = all_cases(states, rng)
        total = sum(size for _, _, size in cases)
        while cases and time.monotonic() < end:
            state, file, size = rng.choice(cases)
            offset = choose_offset(rng, size)
            base = name / "case"
            problems = check(work, states[state].copy(base), warm, file, offset)
            done[state] += 1
            if problems:
                what = f"{state}: {_kind_of(file)} cut off: " + "; ".join(problems)
                findings.save(self.name, base, f"{state} {file} {offset}/{size}", what)
            shutil.rmtree(base, ignore_errors=True)
        return Summary(done.total(), {"offsets there are": total, **done})


def run_states(work: Work, warm: Warm, folder: Path) -> dict[str, Scenario]:
    """A finished run, and runs killed at some operations."""
    found = {"finished": work.end}
    for share in _STOPS if warm.has_shim else ():
        state = work.start.copy(folder / f"stopped-{share}")
        command = state.start(
            warm,
            *work.arguments,
            root=state.base,
            target=int(share * work.operations),
            action=shim.SIGNAL_AFTER,
            number=int(signal.SIGKILL),
            whom=shim.GROUP,
        )
        command.wait()
        command.destroy()
        found[f"stopped at {share:.0%}"] = state
    return found


def all_cases(states: dict[str, Scenario], rng: random.Random) -> list[tuple[str, str, int]]:
    """State, file and its size, of every file that has any content."""
    return [
        (name, str(path.relative_to(state.base)), path.stat().st_size)
        for name, state in states.items()
        for path in sorted(state.run.rglob("*"))
        if path.is_file() and path.stat().st_size
    ]


def choose_offset(rng: random.Random, size: int) -> int:
    """An offset: often the first or last bytes, or a multiple of 512, else any."""
    way = rng.randrange(4)
    if way == 0:
        return rng.randrange(min(size, 16))
    if way == 1:
        return size - 1 - rng.randrange(min(size, 16))
    if way == 2:
        return rng.randrange(0, size, 512)
    return rng.randrange(size)


def check(work: Work, case: Scenario, warm: Warm, file: str, offset: int) -> list[str]:
    """Cut one file off and give the commands; what is wrong."""
    os.truncate(case.base / file, offset)
    problems = list[str]()
    in_artifact = file.startswith("run/artifact/")
    is_sealed = (case.run / "artifact" / "manifest.json").exists()
    if is_sealed:
        problems += _end(case, warm, REFUSALS if in_artifact else EXIT_CODES, "verify", "run")
        problems += _end(case, warm, EXIT_CODES, *PREDICT)
    problems += _end(case, warm, EXIT_CODES, "status", "run")
    command = case.start(warm, *work.arguments)
    code = command.wait()
    problems += [f"run: {what}" for what in _message(command, code, EXIT_CODES)]
    if code == 0 and not in_artifact:
        problems += scenarios.difference(work.made, case.files(work.artifact))
        problems += scenarios.end_problems(case)
    return problems


def _end(case: Scenario, warm: Warm, allowed: set[int], *arguments: str) -> list[str]:
    command = case.start(warm, *arguments)
    found = _message(command, command.wait(), allowed)
    return [f"{arguments[0]}: {what}" for what in found]


def _message(command: shim.Command, code: int | None, allowed: set[int]) -> list[str]:
    found = scenarios.message_problems(command, code, allowed)
    command.destroy()
    shutil.rmtree(command.folder, ignore_errors=True)
    return found


def _kind_of(file: str) -> str:
    """A file without the names that differ from run to run."""
    return "/".join(part for part in Path(file).parts if not part[0].isdigit())


KINDS = (Truncation(),)
