from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_automl.core import held_folders
from lepton_automl.models.model import Model
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import TrainingKey, Trials
from lepton_automl.search.workers import launch
from lepton_automl.search.workers.run_task import load_part, run_task
from lepton_automl.search.workers.task import Task, unpack
from lepton_automl.training import checkpoint, loader
from lepton_automl.training.evaluate import is_correct
from tests.helpers.search import make_trial, search_request

PROGRAM = (
    "import json, os, sys; names = ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES'); "
    "print(json.dumps([sys.argv[1:], *(os.environ.get(name) for name in names)]))"
)


@pytest.mark.parametrize("gpu", [None, 3])
def test_a_worker_has_one_thread_and_sees_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: int | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with launch.launch(PROGRAM, tmp_path, gpu) as process:
        assert process.stdout is not None
        words, threads, seen = json.loads(process.stdout.read())
    assert words == [str(os.getpid()), str(tmp_path), held_folders.to_json()]
    assert threads == "1"
    assert seen == ("5,7" if gpu is None else "3")


class Stopped(Exception):
    """As a signal would."""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    job, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    recipe = json.dumps(json.loads(make_trial(0).recipe.to_json()) | {"batch_size": 32})
    key = TrainingKey.parse("0-final-0")
    yield replace(TaskBuilder(job, trials).from_scratch(trials[0], 6, key), ranks=2, recipe=recipe)
    job.ledger.close()


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started."""
    started: list[subprocess.Popen[bytes]] = []
    original = launch._start_rank

    def start(*args: object) -> subprocess.Popen[bytes]:
        started.append(original(*args))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(launch, "_start_rank", start)
    return started


def test_two_processes_leave_one_net_and_nothing_else(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    result = run_task(task, contextlib.nullcontext)
    assert not result.failed
    (other,) = others
    assert other.poll() is not None
    data = load_part(task, task.validation, task.validation_states)
    model = Model.load(Path(task.out))
    assert (unpack(result.correct) == is_correct(model, data)).all()
    assert not [path for path in Path(task.out).iterdir() if "rendezvous" in path.name]


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 batches a chunk in both processes, not 512: after each a state may be kept."""
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", 1 << 16)
    smaller = "from lepton_automl.training import loader; loader._CHUNK_BYTES['cpu'] = 1 << 16; "
    monkeypatch.setattr(launch, "RANK_PROGRAM", smaller + launch.RANK_PROGRAM)


@pytest.mark.usefixtures("short_chunks")
def test_stopped_half_way_the_same_task_ends_on_the_same_bits(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_INTERVAL_SECONDS", 0.0)
    task = replace(task, cycles=((12, 1),))
    whole = replace(task, out=str(tmp_path / "whole"))
    run_task(whole, contextlib.nullcontext)

    def stop(share: float) -> None:
        if share > 0.8:
            raise Stopped

    with pytest.raises(Stopped):
        run_task(task, contextlib.nullcontext, stop)
    assert (Path(task.out) / "resume.safetensors").is_file()
    shares: list[float] = []
    run_task(task, contextlib.nullcontext, shares.append)
    assert shares[0] > 0.4
    assert Model.load(Path(task.out)).digest == Model.load(Path(whole.out)).digest


@pytest.mark.usefixtures("short_chunks")
def test_two_processes_that_are_late_shorten_their_training_alike(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    late = replace(task, cycles=((20, 1),), max_seconds=1e-9, is_shortened=True)
    shortened = run_task(late, contextlib.nullcontext)
    assert 0 < shortened.share < 1
    digest = Model.load(Path(task.out)).digest
    again = replace(late, max_seconds=0.0, schedule_changes=shortened.schedule_changes)
    repeated = run_task(again, contextlib.nullcontext)
    assert (repeated.share, repeated.correct) == (shortened.share, shortened.correct)
    assert Model.load(Path(task.out)).digest == digest
    assert all(other.poll() is not None for other in others)


def test_without_one_of_them_the_training_fails_and_does_not_wait(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    def kill(share: float) -> None:
        if share > 0.3:
            others[0].kill()

    with pytest.raises(RuntimeError):
        run_task(replace(task, cycles=((60, 1),)), contextlib.nullcontext, kill)
    assert others[0].poll() is not None
    assert not (Path(task.out) / "weights.safetensors").is_file()


def test_small_batches_are_one_process_s_work(
    task: Task, others: list[subprocess.Popen[bytes]]
) -> None:
    recipe = json.dumps(json.loads(task.recipe) | {"batch_size": 20})
    run_task(replace(task, recipe=recipe, cycles=((1, 1),)), contextlib.nullcontext)
    assert not others
