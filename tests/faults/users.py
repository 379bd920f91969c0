"""Commands of a user without rights, with a strict umask, beside those of another user.

With root's rights another user is tried; without them only what a user can do to oneself.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults import scenario as scenarios
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import EXIT_CODES, Scenario, Work
from tests.faults.truncation import run_states
from tests.faults.warm import Warm

NOBODY = 65534
MACHINE, OTHER_COMMAND, USAGE = 7, 4, 2
"""Exit codes: something cannot be written; another command works on the run; a path is no good."""


class Users:
    """Every case below, again and again with other states of the run."""

    name = "users"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try each case in each state of a run until the time is over."""
        end, done = time.monotonic() + seconds, Counter[str]()
        warm, commands, name = scenarios.prepared("run")
        work = commands["run"]
        for folder in (name, name.parent, warm.folder):
            folder.chmod(0o755)
        states = {"fresh": work.start} | run_states(work, warm, name)
        pairs = [(case, state) for case in CASES for state in states]
        rng.shuffle(pairs)
        while pairs and time.monotonic() < end:
            case, state = pairs.pop()
            base = name / "case"
            problems = case(states[state].copy(base), work, warm)
            done[case.__name__] += 1
            if problems:
                what = f"{case.__name__}: " + "; ".join(problems)
                findings.save(self.name, base, f"{case.__name__}, {state}", what)
            _everything(base, 0o700)
            shutil.rmtree(base, ignore_errors=True)
        return Summary(done.total(), dict(done))


def private_files(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """With umask 077 all works, and others can read nothing new."""
    before = set(case.base.rglob("*"))
    _give(case.base)
    problems = _end(case, warm, work.arguments, {0}, umask=0o077)
    open_ones = [
        str(path.relative_to(case.base))
        for path in case.base.rglob("*")
        if path not in before and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    if open_ones:
        problems.append(f"others may use {open_ones[:3]}")
    return problems + scenarios.difference(work.made, case.files(work.artifact))


def read_only_working_folder(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """Nothing can be written: one message, and nothing has changed."""
    _everything(case.base, 0o755)
    _give(case.base / "tmp", case.base / "state")
    before = _listing(case.base)
    finished = (case.run / "artifact" / "manifest.json").exists()
    problems = _end(case, warm, work.arguments, {MACHINE})
    problems += _end(case, warm, ["status", "run"], EXIT_CODES if not finished else {0})
    if finished:
        problems += _end(case, warm, ["verify", "run"], {0})
        problems += _end(case, warm, ["predict", "run", "picture.png"], {0})
    if _listing(case.base) != before:
        problems.append("something was written")
    return problems


def unreadable_run(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """The run folder of another user that nobody else may open."""
    _give(case.base)
    case.run.mkdir(exist_ok=True)
    os.chown(case.run, 0, 0)
    case.run.chmod(0o700)
    problems = []
    commands = (work.arguments, ["status", "run"], ["verify", "run"])
    for arguments in (*commands, ["predict", "run", "picture.png"]):
        problems += _end(case, warm, arguments, EXIT_CODES - {0} | {USAGE})
    return problems


def read_only_home(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """The state folder cannot be made: the run goes on."""
    _give(case.base)
    home = case.base / "home"
    home.mkdir()
    home.chmod(0o555)
    os.chown(home, 0, 0)
    settings = {"LEPTON_STATE_DIR": "", "XDG_STATE_HOME": "", "HOME": str(home)}
    problems = _end(case, warm, work.arguments, {0}, environment=settings)
    return problems + scenarios.difference(work.made, case.files(work.artifact))


def no_temporary_folder(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """TMPDIR cannot be written: the run works with another folder or says so."""
    _give(case.base)
    os.chown(case.base / "tmp", 0, 0)
    (case.base / "tmp").chmod(0o555)
    return _end(case, warm, work.arguments, {0, MACHINE})


def one_after_the_other(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """A second user goes on with a shared folder in which all may write."""
    if not case.run.exists():
        case.run.mkdir()
    _everything(case.base, 0o777)
    problems = _end(case, warm, work.arguments, {0, MACHINE, OTHER_COMMAND}, umask=0)
    return problems + [f"root after it: {each}" for each in _end_as_root(case, work, warm)]


def at_the_same_time(case: Scenario, work: Work, warm: Warm) -> list[str]:
    """Two users on one run: one of them is told so, and the other ends undisturbed."""
    _everything(case.base, 0o777)
    first = case.start(warm, *work.arguments, umask=0)
    first.wait(0.4)
    second = case.start(warm, *work.arguments, user=NOBODY, umask=0)
    codes = first.wait(), second.wait()
    problems = list[str]()
    for command, code in zip((first, second), codes, strict=True):
        problems += scenarios.message_problems(command, code, {0, MACHINE, OTHER_COMMAND})
        command.destroy()
        warm.forget(command)
    if 0 not in codes:
        problems.append(f"exit codes {codes}")
    return problems + _end_as_root(case, work, warm)


def _end_as_root(case: Scenario, work: Work, warm: Warm) -> list[str]:
    problems = scenarios.finish(case, warm, work.arguments)
    problems += scenarios.end_problems(case)
    return problems + scenarios.difference(work.made, case.files(work.artifact))


CASES: tuple[Callable[[Scenario, Work, Warm], list[str]], ...] = (
    (
        private_files,
        read_only_working_folder,
        unreadable_run,
        read_only_home,
        no_temporary_folder,
        one_after_the_other,
        at_the_same_time,
    )
    if scenarios.is_root()
    else (private_files,)
)


def _end(
    case: Scenario, warm: Warm, arguments: list[str], allowed: set[int], **more: object
) -> list[str]:
    """Run a command as another user; what is wrong with its end."""
    user = NOBODY if scenarios.is_root() else None
    command = case.start(warm, *arguments, user=user, **more)
    found = scenarios.message_problems(command, command.wait(), allowed)
    command.destroy()
    warm.forget(command)
    return [f"{arguments[0]}: {each}" for each in found]


def _give(*folders: Path) -> None:
    """Make the other user the owner of folders with all that is in them."""
    if scenarios.is_root():
        for folder in folders:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def _everything(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def _listing(base: Path) -> dict[str, bytes]:
    """Content of every file, but of what belongs to the user."""
    own = {"tmp", "state"}
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in base.rglob("*")
        if path.is_file() and path.relative_to(base).parts[0] not in own
    }


KINDS = (Users(),)
