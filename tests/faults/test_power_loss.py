"""Nothing acknowledged is lost where power fails between any two operations of a writer."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.faults import warm
from tests.faults.operations import changes, counted
from tests.faults.power_loss import Disk, Operation, problems_of

WRITER = """
import sys
from pathlib import Path
from tests.faults import patches, warm
from lepton_automl.core import files
from lepton_automl.runs.ledger import Ledger
from lepton_automl.runs.lock import RunLock
patches.mark_acknowledged()
plan, log, run = sys.argv[1:]
warm.arm(Path(plan), log)
run = Path(run)
ledger = Ledger(run / "ledger.db", lock=RunLock(run))
for number in range(2):
    ledger.record("trial", str(number), {"text": "x" * 3000})
    files.write(run / "models" / str(number) / "weights", bytes(5000))
    files.write(run / "models" / "0" / "weights", b"other" * number)
ledger.close()
"""


@pytest.mark.skipif(not warm.HAS_COMPILER, reason="operations are recorded by a C program")
def test_events_and_files_survive_a_power_loss_at_any_operation(tmp_path):
    root, log, plan = tmp_path / "root", tmp_path / "log", tmp_path / "plan"
    root.mkdir()
    warm.Plan.new(plan, root)
    library = warm.build_shim(tmp_path)
    subprocess.run(
        [sys.executable, "-c", WRITER, plan, log, root / "deep" / "run"],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(warm.ROOT)},
        check=True,
    )
    operations, disk, rng = changes(log), Disk(root), random.Random(0)
    marks = 0
    for number, operation in enumerate(operations):
        disk.apply(operation)
        marks += operation.kind == warm.MARK
        for policy in ("synced", "data", "random"):
            found = disk.lose_power(policy, rng)
            base = tmp_path / f"{number}-{policy}"
            assert problems_of(disk, found, base, "deep/run/ledger.db") == []
    assert marks == 6
    assert len(disk.events) == len(disk.files) == 2
    every = counted(log, root)
    assert len(every) == warm.Plan.shared(plan).count
    kinds = iter(kind for kind, _ in every)  # Those that failed too.
    assert all(each.kind in kinds for each in operations if each.kind != warm.MARK)
    places = {place for _, place in every}
    assert {"deep/run/ledger.db-wal", "deep/run/models/N/.weights.N.tmp"} <= places


def operation(kind, path, other="", offset=0, data=b""):
    return Operation(kind, f"/disk/{path}", other and f"/disk/{other}", offset, data)


def test_the_disk_keeps_what_was_synced_and_any_part_of_the_rest(tmp_path):
    disk, rng = Disk(tmp_path), random.Random(0)
    disk.root = "/disk"
    steps = [
        operation(warm.CREATE, "a.tmp"),
        operation(warm.WRITE, "a.tmp", data=b"first"),
        operation(warm.SYNC, "a.tmp"),
        operation(warm.WRITE, "a.tmp", offset=5, data=b" second"),
        operation(warm.RENAME, "a.tmp", "a"),
    ]
    for step in steps:
        disk.apply(step)
    assert disk.lose_power("synced", rng) == {}
    assert disk.lose_power("all", rng) == {"/disk/a": b"first second"}
    assert disk.lose_power("names", rng) == {"/disk/a": b"first"}
    assert disk.lose_power("data", rng) == {}
    disk.apply(Operation(warm.SYNC, "/disk", "", 0, b""))
    assert disk.lose_power("synced", rng) == {"/disk/a": b"first"}
    # A file of a folder whose name is not safe is lost with it.
    for step in (
        operation(warm.MKDIR, "b"),
        operation(warm.CREATE, "b/c"),
        operation(warm.SYNC, "b"),
    ):
        disk.apply(step)
    assert disk.lose_power("synced", rng) == {"/disk/a": b"first"}
