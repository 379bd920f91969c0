"""Killed at any moment, a run goes on as if nothing had happened: no result lost, none made twice.

A worker, the coordinator or all of them are killed, as separate programs that load by themselves;
`make faults` kills forked ones thousands of times (tests/faults/kills.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shlex
import signal
import time
from pathlib import Path

import pytest

from lepton_automl.errors import DataError
from lepton_automl.models.model import Model
from lepton_automl.pipeline import run as pipeline
from lepton_automl.pipeline.verify import verify
from tests.helpers import crash as killing
from tests.helpers import killer as killers
from tests.helpers import processes, runs

KILLS, SEED = 2, 7
LONG_EPOCHS = 1000
"""A first rung that is never over before it is interrupted."""

# The whole run is made about three times over in one fixture, on a machine that may be busy.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    runs.quick_data(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(home):
    """The run nobody disturbs, with the time of each of its steps."""
    return killers.uninterrupted(home)


@pytest.fixture(scope="module")
def killer(home, undisturbed):
    """The same run, killed again and again and then left to end."""
    _, timeline = undisturbed
    run = killing.Run(home, "killed")
    made = killers.Killer(run, min(timeline.values()), random.Random(SEED))
    for moment in killers.moments(timeline, KILLS, SEED):
        if not made.is_over:
            made.strike(moment)
    made.finish()
    return made


@pytest.fixture(scope="module")
def killed(killer):
    """The run that was killed."""
    return killer.run


def test_no_finished_trial_is_lost_or_decided_otherwise(undisturbed, killed):
    # `look` has compared every row, to the byte, with all that was seen of it before each kill.
    assert killed.story() == undisturbed[0].story()
    numbers = {key for _, kind, key, _, _ in killed.rows if kind == "trial"}
    assert numbers == {str(number) for number in range(killing.TRIALS)}


def test_no_finished_trial_is_trained_again(killed):
    recorded = {
        checkpoint(key): at for _, kind, key, _, at in killed.rows if kind in {"rung", "fold"}
    }
    assert set(killed.trainings) <= set(recorded)
    assert not [n for n, times in killed.trainings.items() if max(times) > recorded[n] * 1e9]
    # A kill may cost the training that was under way, never more.
    assert sum(len(times) - 1 for times in killed.trainings.values()) <= KILLS


def test_the_artifact_is_that_of_the_undisturbed_run_byte_for_byte(undisturbed, killed):
    artifact = killed.artifact()
    assert {"model.int8.onnx", "model.fp32.onnx", "reference/model.fp32.onnx"} <= set(artifact)
    assert artifact == undisturbed[0].artifact()
    assert is_complete(killed.folder / "artifact")


def test_processes_were_killed_and_none_outlived_its_coordinator(killer):
    assert 1 <= killer.kills.total() <= KILLS
    assert not killer.left


def test_kills_leave_nothing_behind(undisturbed, killed):
    assert not killed.leftovers()
    assert names(killed.folder) == names(undisturbed[0].folder)


def checkpoint(key: str) -> str:
    """Folder of what the task with this key saves."""
    number, _, rung = key.partition("-")
    return f"{int(number):05d}-{rung}"


def names(folder: Path) -> set[str]:
    """Every file of a run but SQLite's own passing ones."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("ledger.db-")}


def is_complete(artifact: Path) -> bool:
    """The manifest is there and every file is the one it names."""
    files = json.loads((artifact / "manifest.json").read_text())["files"]
    return all(
        hashlib.sha256((artifact / name).read_bytes()).hexdigest() == about["sha256"]
        for name, about in files.items()
    )


@pytest.fixture
def search(home, request):
    """A run of its own and its process, stopped from outside once two trials have finished."""
    run = killing.Run(home, request.node.name)
    process = run.start()
    run.watch(process, lambda: sum(row[1] == "rung" for row in run.rows) >= 2)
    yield run, process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_no_worker_outlives_a_coordinator_that_was_killed_alone(home):
    run = killing.Run(home, "orphaned", epochs=9 * LONG_EPOCHS)
    process = run.start()
    run.watch(process, lambda: "plan search" in run.reached())
    time.sleep(1)  # The first task is on its way.
    workers = processes.children(process.pid)
    assert processes.alive(workers) == workers != set()
    process.kill()
    process.wait()
    processes.eventually(lambda: not processes.alive(workers), killers.ORPHAN_SECONDS)
    left = processes.alive(workers)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    processes.ended(process)
    assert not left


def test_ctrl_c_leaves_the_best_so_far_and_says_how_to_go_on(search):
    run, process = search
    workers = processes.children(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
    _, said = process.communicate(timeout=processes.LONGEST_SECONDS)
    assert process.returncode == 130
    assert shlex.join(["lepton", *run.arguments]) in said
    assert "Traceback" not in said
    assert not processes.alive(workers)
    assert Model.load(run.folder / "models" / "best").metrics["validation_accuracy"] >= 0


@pytest.mark.slow
def test_after_sigterm_the_best_so_far_can_be_compressed(search):
    run, process = search
    workers = processes.children(process.pid)
    process.terminate()
    _, said = process.communicate(timeout=processes.LONGEST_SECONDS)
    assert process.returncode == 130
    assert shlex.join(["lepton", *run.arguments]) in said
    assert not processes.alive(workers)
    assert processes.ended(processes.lepton("compress", str(run.folder))) == 0
    (int8,) = run.folder.glob("models/compressed-*/quantized")
    assert Model.load(int8).qparams is not None


KILLED_EXPORTS = """
import os, shutil, signal, sys
from pathlib import Path
from lepton_automl.artifact import writer
from lepton_automl.pipeline import export as exports, run as pipeline
from lepton_automl.runs.folder import RunFolder, configured

finished, out, replace = Path(sys.argv[1]), Path(sys.argv[2]), Path.replace
verdict = writer.read_verdict(finished / "artifact")
exports.verify_in_fresh_process = lambda request: verdict


def export(folder, left):
    def kill_or_replace(self, target):
        nonlocal left
        left -= folder / "artifact" in Path(target).parents
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = kill_or_replace
    pipeline.export(configured(RunFolder(folder)))


for number in map(int, sys.argv[3:]):
    shutil.copytree(finished, out / str(number))
    pid = os.fork()
    if not pid:
        try:
            export(out / str(number), number)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
"""
"""Export the run argv[1] in argv[2]/N, for each N that follows, killed when the Nth file of the
artifact is written but not yet renamed."""


@pytest.fixture(scope="module")
def exports(finished_run, tmp_path_factory):
    """Run folders, one for each file whose writing was killed; the last one was not."""
    finished, out = finished_run[0].out, tmp_path_factory.mktemp("exports")
    files = len(names(finished / "artifact"))
    some = (2, files, files + 1)
    command = (KILLED_EXPORTS, str(finished), str(out), *map(str, some))
    assert processes.ended(processes.python("-c", *command)) == 0
    return sorted(out.iterdir(), key=lambda folder: int(folder.name))


def test_an_export_killed_at_any_write_leaves_a_whole_artifact_or_none(finished_run, exports):
    *killed, last = (folder / "artifact" for folder in exports)
    assert int(exports[-2].name) == len(names(finished_run[1].artifact))
    assert not any((artifact / "manifest.json").exists() for artifact in killed)
    assert is_complete(last)
    with pytest.raises(DataError, match=r"manifest\.json"):
        verify(killed[-1])


def test_an_export_killed_at_any_write_is_made_good_by_the_same_command(finished_run, exports):
    config, outcome = finished_run
    again = pipeline.run(dataclasses.replace(config, out=exports[0]))
    assert is_complete(again.artifact)
    assert again.verdict.int8.sha256 == outcome.verdict.int8.sha256
    assert names(again.artifact) == names(outcome.artifact)


@pytest.mark.slow
def test_a_budget_holds_over_interruptions(home):
    run, budget, kills = killing.Run(home, "budgeted"), 60.0, 2
    run.prepare()
    words = ["search", *run.arguments[1:]]
    words[words.index("--trials") : words.index("--trials") + 2] = ["--budget", f"{budget:g}s"]
    words[-1] = str(run.folder)
    ledger, spent = run.folder / "ledger.db", []
    for number in range(kills + 1):
        begun = time.monotonic()
        process = processes.lepton(*words)
        if number < kills:
            while not processes.begun_training(ledger):
                assert process.poll() is None
                time.sleep(killing.POLL_SECONDS)
            os.killpg(process.pid, signal.SIGKILL)
        assert processes.ended(process) == (-signal.SIGKILL if number < kills else 0)
        spent.append(time.monotonic() - begun)
    counted = processes.seconds(ledger)
    # A killed command loses at most a heartbeat of the count, and Python's own start.
    assert sum(spent) - 2 * len(spent) <= counted <= sum(spent)
    assert sum(spent) <= budget + 10 + 2 * len(spent)
