from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lepton_automl.models.model import Model
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers import launch
from lepton_automl.search.workers.pool import Workers
from lepton_automl.search.workers.task import Task, _part, run_task, unpack
from lepton_automl.training import checkpoint
from lepton_automl.training.evaluate import is_correct
from tests.helpers.search import candidate, is_alive, work

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GPU_FILES", ())


def the_one(run: Path) -> subprocess.Popen[bytes]:
    return launch._waiting[(run / "checkpoints").resolve()]


def has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_one_standing_by_has_imported_torch_and_touched_no_file(tmp_path: Path) -> None:
    with launch.standing_by(tmp_path):
        until = time.monotonic() + 60
        while not has_torch(the_one(tmp_path).pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert has_torch(the_one(tmp_path).pid)
        assert not list(tmp_path.iterdir())


def test_workers_take_the_one_that_stands_by_and_it_works(tmp_path: Path) -> None:
    job = work(tmp_path)
    job.ledger.close()
    trials = Trials()
    trials.add(candidate(0, epochs=1))
    task = Tasks(job, trials).rung(trials[0], 0)
    with launch.standing_by(tmp_path):
        pid = the_one(tmp_path).pid
        with Workers(2, tmp_path / "checkpoints") as pool:
            pids = [worker["pid"] for worker in pool.facts()["workers"]]
            assert pids.count(pid) == 1
            answer = pool.call(task)
    assert answer.correct
    assert not answer.failed
    assert not is_alive(pid)


def test_whoever_nobody_takes_ends_with_the_block(tmp_path: Path) -> None:
    with launch.standing_by(tmp_path):
        pid = the_one(tmp_path).pid
    assert not is_alive(pid)


def test_one_that_died_ahead_is_not_taken(tmp_path: Path) -> None:
    with launch.standing_by(tmp_path):
        one = the_one(tmp_path)
        one.kill()
        one.wait()
        assert launch.taken(tmp_path / "checkpoints") is None


def test_others_get_their_own_process(tmp_path: Path) -> None:
    with launch.standing_by(tmp_path / "one"):
        assert launch.taken(tmp_path / "another" / "checkpoints") is None


def test_none_stands_by_for_a_run_that_has_its_net_or_where_there_may_be_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "done" / "models" / "best").mkdir(parents=True)
    with launch.standing_by(tmp_path / "done"):
        assert not launch._waiting
    monkeypatch.setattr(launch, "_GPU_FILES", (__file__,))
    with launch.standing_by(tmp_path / "new"):
        assert not launch._waiting


class Stopped(Exception):
    """As a signal would."""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(0))
    recipe = json.dumps(json.loads(candidate(0).recipe.to_json()) | {"batch_size": 32})
    yield replace(Tasks(job, trials).fresh(trials[0], 6, "final-0"), ranks=2, recipe=recipe)
    job.ledger.close()


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started."""
    started: list[subprocess.Popen[bytes]] = []
    original = launch._other

    def watched(*args: object) -> subprocess.Popen[bytes]:
        started.append(original(*args))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(launch, "_other", watched)
    return started


def test_two_processes_leave_one_net_and_nothing_else(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    result = run_task(task, contextlib.nullcontext)
    assert not result.failed
    (other,) = others
    assert other.poll() is not None
    model, data = Model.load(Path(task.out)), _part(task, task.validation)
    assert (unpack(result.correct) == is_correct(model, data)).all()
    assert np.mean(unpack(result.correct)) > 0.6
    assert not [path for path in Path(task.out).iterdir() if "meeting" in path.name]


def test_stopped_half_way_the_same_task_ends_on_the_same_bits(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL_SECONDS", 0.0)
    # Longer than a chunk of batches, which is 512 here: states are kept between chunks.
    task = replace(task, cycles=((300, 1),))
    whole = replace(task, out=str(tmp_path / "whole"))
    run_task(whole, contextlib.nullcontext)

    def stop(share: float) -> None:
        if share > 0.8:
            raise Stopped

    with pytest.raises(Stopped):
        run_task(task, contextlib.nullcontext, stop)
    assert (Path(task.out) / "half-way.safetensors").is_file()
    shares: list[float] = []
    run_task(task, contextlib.nullcontext, shares.append)
    assert shares[0] > 0.4
    assert Model.load(Path(task.out)).digest == Model.load(Path(whole.out)).digest


def test_without_one_of_them_the_training_fails_and_does_not_wait(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    def kill(share: float) -> None:
        if share > 0.3:
            others[0].kill()

    with pytest.raises(RuntimeError):
        run_task(replace(task, cycles=((200, 1),)), contextlib.nullcontext, kill)
    assert others[0].poll() is not None
    assert not (Path(task.out) / "weights.safetensors").is_file()


def test_small_batches_are_one_process_s_work(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    recipe = json.dumps(json.loads(task.recipe) | {"batch_size": 20})
    run_task(replace(task, recipe=recipe, cycles=((1, 1),)), contextlib.nullcontext)
    assert not others
