"""The Nth file operation of a command fails, or its process dies at it; the same command ends it.

Operations are those of `shim.c`: files of lepton, its workers, numpy, ONNX Runtime and SQLite.
"""

from __future__ import annotations

import errno
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from tests.faults import scenario as scenarios
from tests.faults import warm as shim
from tests.faults.driver import Findings, Summary
from tests.faults.scenario import EXIT_CODES, Watched, Work
from tests.faults.warm import Warm

FAULTS: tuple[tuple[str, dict[str, int]], ...] = (
    *(
        (name, {"action": shim.FAIL, "number": getattr(errno, name), "mask": shim.CHANGES})
        for name in ("ENOSPC", "EIO", "EROFS")
    ),
    ("EMFILE", {"action": shim.FAIL, "number": errno.EMFILE, "mask": shim.OPEN | shim.CREATE}),
    ("EIO on open", {"action": shim.FAIL, "number": errno.EIO, "mask": shim.OPEN}),
    (
        "full from then on",
        {
            "action": shim.FAIL_FROM,
            "number": errno.ENOSPC,
            "mask": shim.CREATE | shim.WRITE | shim.MKDIR,
        },
    ),
    (
        "read-only from then on",
        {"action": shim.FAIL_FROM, "number": errno.EROFS, "mask": shim.CHANGES & ~shim.SYNC},
    ),
    ("dies before", {"action": shim.SIGNAL_BEFORE, "number": signal.SIGKILL, "mask": shim.CHANGES}),
    ("dies after", {"action": shim.SIGNAL_AFTER, "number": signal.SIGKILL, "mask": shim.CHANGES}),
)


class IoFaults:
    """Every operation of `run`, `pick` and `compress MODEL.onnx`, in random order."""

    name = "io"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try operations and faults until the time is over."""
        end, done = time.monotonic() + seconds, Counter[str]()
        warm, commands, name = scenarios.prepared("run", "pick", "compress")
        if not warm.has_shim:
            return Summary(0, {"left out": "there is no C compiler"})
        cases = all_cases(commands, rng)
        for number, (work, fault, target) in enumerate(cases):
            if time.monotonic() > end:
                break
            base = name / f"case-{number}"
            place, problems = inject(commands[work], warm, base, fault, target)
            done[fault] += 1
            if problems:
                what = f"{work}, {fault} at {place}: " + "; ".join(problems)
                findings.save(self.name, base, f"{work} {fault} {target}", what)
            shutil.rmtree(base, ignore_errors=True)
        return Summary(done.total(), {"of": len(cases), **done})


def all_cases(commands: dict[str, Work], rng: random.Random) -> list[tuple[str, str, int]]:
    """Command, fault and number of the operation, for each of them, shuffled.

    Opens are not in `Work.operations`; numbers beyond the last operation change nothing.
    """
    cases = [
        (name, fault, target)
        for name, work in commands.items()
        for fault, _ in FAULTS
        for target in range(1, work.operations + 1)
    ]
    rng.shuffle(cases)
    return cases


def inject(work: Work, warm: Warm, base: Path, fault: str, target: int) -> tuple[str, list[str]]:
    """Run a command with one fault, then again without.

    Returns
    -------
    tuple
        The operation at which the fault occurred, and what is wrong.
    """
    case, plan = work.start.copy(base), dict(FAULTS)[fault]
    watched = Watched(base / work.folder)
    dies = plan["action"] in {shim.SIGNAL_BEFORE, shim.SIGNAL_AFTER}
    command = case.start(warm, *work.arguments, root=base, target=target, **plan)
    code = command.wait()
    assert command.plan is not None
    place = command.plan.place
    killed_itself = dies and command.plan.fired == command.pid
    allowed = {-signal.SIGKILL} if killed_itself else EXIT_CODES
    problems = [*scenarios.message_problems(command, code, allowed), *watched.look()]
    left = _left(command)
    if left:
        problems.append(f"processes are left: {left}")
    command.destroy()
    warm.forget(command)
    problems += scenarios.finish(case, warm, work.arguments)
    problems += watched.look()
    problems += scenarios.end_problems(case, work.artifact)
    problems += scenarios.difference(work.made, case.files(work.artifact))
    return place, problems


def _left(command: shim.Command) -> list[int]:
    """Processes that have not ended some seconds after the coordinator."""
    end = time.monotonic() + 10
    while (left := list(command.session())) and time.monotonic() < end:
        time.sleep(0.02)
    return left


KINDS = (IoFaults(),)
