"""The Nth file operation of a command fails, or its process dies at it; the same command ends it.

Operations are those of `shim.c`: files of lepton, its workers, numpy, ONNX Runtime and SQLite.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    ("EIO on read", {"action": shim.FAIL, "number": errno.EIO, "mask": shim.READ}),
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


@dataclass(frozen=True)
class Case:
    """One fault at one operation of a command."""

    work: str
    fault: str
    target: int
    """Number of the operation among those that the fault concerns, from 1."""
    place: str
    """What the operation does; the same for all operations that do the same."""


class IoFaults:
    """Every operation of `run`, `pick` and `compress MODEL.onnx`.

    First one operation of every place with one fault, then with another and so on, then the others,
    each in random order; one case at a time for each processor (`taskset` leaves it fewer).
    """

    name = "io"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Try operations and faults until the time is over."""
        end, done = time.monotonic() + seconds, Counter[str]()
        warm, commands, folder = scenarios.prepared("run", "pick", "compress")
        if not warm.has_shim:
            return Summary(0, {"left out": "there is no C compiler"})
        cases, places = all_cases(commands, rng)
        waiting, lock = enumerate(cases), threading.Lock()

        def work_off(warm: Warm) -> None:
            for number, case in waiting:
                if time.monotonic() > end:
                    break
                base, work = folder / f"case-{number}", commands[case.work]
                place, problems = inject(work, warm, base, case.fault, case.target)
                with lock:
                    done[case.fault] += 1
                    if problems:
                        what = f"{case.work}, {case.fault} at {place}: " + "; ".join(problems)
                        again = f"{case.work} {case.fault} {case.target}"
                        findings.save(self.name, base, again, what)
                shutil.rmtree(base, ignore_errors=True)

        others = range(1, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor() as pool:
            list(pool.map(work_off, [warm, *map(scenarios.another_warm_process, others)]))
        notes = {"of": len(cases), "places": f"{min(done.total(), places)} of {places}"}
        return Summary(done.total(), {**notes, **done})


def all_cases(commands: dict[str, Work], rng: random.Random) -> tuple[list[Case], int]:
    """Every case in the order in which they are tried, and how many places there are."""
    cases = [
        Case(name, fault, target, f"{shim.NAMES[kind]} {place}")
        for name, work in commands.items()
        for fault, plan in FAULTS
        for target, (kind, place) in enumerate(
            [each for each in work.counted if each[0] & plan["mask"]], start=1
        )
    ]
    rng.shuffle(cases)
    seen, turns = set[Case](), Counter[tuple[str, str]]()
    order: dict[Case, int] = {}
    for case in cases:
        kind = dataclasses.replace(case, target=0)
        place = (case.work, case.place)
        order[case] = len(cases) if kind in seen else turns[place]
        turns[place] += kind not in seen
        seen.add(kind)
    return sorted(cases, key=order.__getitem__), len(turns)


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
