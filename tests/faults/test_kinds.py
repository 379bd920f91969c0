"""A few cases of each kind of fault; `make faults` tries thousands."""

from __future__ import annotations

import errno
import random
import signal

import pytest

from tests.faults import driver, scenario, stores, truncation, warm
from tests.faults.clock import HOUR
from tests.faults.kills import Case, Strike

pytestmark = pytest.mark.skipif(not warm.HAS_COMPILER, reason="faults are injected by a C program")


@pytest.fixture(scope="module")
def run():
    """The warm process, a run, and a folder for cases."""
    process, works, folder = scenario.prepared("run")
    return process, works["run"], folder


def test_every_kind_is_found():
    wanted = {"kills", "io", "power", "clock", "truncation", "users", "hosts", "store", "late"}
    assert wanted | {"single-bytes"} <= set(driver.kinds())


def test_after_kills_and_a_failing_disk_the_same_command_makes_the_same_files(run):
    process, work, folder = run
    early, later = 30, work.operations // 4  # Before the worker has written anything, and after.
    case = Case(work, folder / "killed", process, random.Random(0), is_exact=True)
    strikes = (
        Strike(signal.SIGTERM, "coordinator", early, 0.0, is_before=False),
        Strike(signal.SIGKILL, "group", later, 0.0, is_before=True),
    )
    for strike in strikes:
        assert case.strike(strike) == (False, [])
    clock = [["shift_clock", (0.0, -HOUR), (0.3, HOUR)]]
    failing = case.scenario.start(
        process,
        *work.arguments,
        root=case.scenario.base,
        action=warm.FAIL_FROM,
        target=20,
        number=errno.ENOSPC,
        mask=warm.CREATE | warm.WRITE,
        patches=clock,
    )
    assert scenario.message_problems(failing, failing.wait(), {7}) == []
    assert case.watched.look() == []
    assert scenario.finish(case.scenario, process, work.arguments) == []
    assert scenario.end_problems(case.scenario) == []
    assert case.scenario.files() == work.made


def test_another_folder_takes_over_the_run_of_a_killed_command_from_its_store(run):
    process, work, folder = run
    made = {name.partition("/")[2]: digest for name, digest in work.made.items()}
    operations = (2 * work.operations, 40)
    case = stores.Case(
        work.start.copy(folder / "stored"), process, random.Random(0), operations, made
    )
    killed = stores.Strike("kill all", 0.3, errno.EIO, moves=True, takes=True)
    failing = stores.Strike("store fails", 0.5, errno.EIO, moves=False, takes=False)
    assert case.strikes([killed, failing]) == []
    assert {path.name for path in (folder / "stored").glob("machine-*")} >= {
        "machine-1",
        "machine-2",
    }


@pytest.mark.parametrize("file", ["ledger.db", "artifact/manifest.json"])
def test_a_cut_off_file_is_named(run, file):
    process, work, folder = run
    copy = work.end.copy(folder / file.replace("/", "-"))
    assert truncation.check(work, copy, process, f"run/{file}", 40) == []


def test_what_is_wrong_is_found(run):
    """The checks themselves: a lost event, a file of other content, a leftover."""
    _, work, folder = run
    copy = work.end.copy(folder / "wrong")
    watched = scenario.Watched(copy.run)
    assert watched.look() == []
    (copy.run / "models" / ".x.7.tmp").touch()
    (copy.run / "artifact" / "labels.txt").write_text("other")
    (copy.run / "ledger.db").unlink()
    assert len(scenario.end_problems(copy)) == 2
    assert scenario.difference(work.made, copy.files()) != []
    assert watched.look() != []
