from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton_automl.errors import DataError
from lepton_automl.models.model import Model
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.blob_cache import Blob, BlobCache, Received, pieces
from lepton_automl.search.workers.handle import WorkerLost
from lepton_automl.search.workers.remote_task import (
    MODEL_FILES,
    Catalog,
    RemoteResult,
    RemoteTask,
    accept,
    max_result_bytes,
    task_error,
)
from lepton_automl.search.workers.run_task import run_task
from lepton_automl.search.workers.task import Task, TaskResult
from tests.helpers.search import make_trial, search_request


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The second rung of a trial, whose first is done: it has a net to start from."""
    job = search_request(tmp_path_factory.mktemp("here") / "run")
    trials = Trials()
    trials.add(make_trial(0))
    tasks = TaskBuilder(job, trials)
    run_task(tasks.rung(trials[0], 0), contextlib.nullcontext)
    job.ledger.close()
    return tasks.rung(trials[0], 1)


def run_elsewhere(text: str, cache: BlobCache, folder: Path) -> dict[str, Any]:
    """The answer of another machine, which has all that the task lacks."""
    remote = RemoteTask.from_json(text)
    assert not remote.lacks(cache)
    task = remote.resolved(cache, folder)
    found = RemoteResult.packed(run_task(task, contextlib.nullcontext), task)
    return {"result": found.to_json(), "pieces": list(found.pieces())}


def sent(task: Task, catalog: Catalog, cache: BlobCache, folder: Path) -> dict[str, Any]:
    """The answer of another machine, after it has got what it lacks."""
    text = RemoteTask.packed(task, catalog).to_json()
    for blob in RemoteTask.from_json(text).lacks(cache):
        place = catalog.place(blob)
        assert place is not None
        for piece in pieces(blob, place):
            cache.add(piece)
    return run_elsewhere(text, cache, folder)


def received(task: Task, answer: dict[str, Any]) -> Received:
    found = Received(max_result_bytes(task))
    for piece in answer["pieces"]:
        found.add(piece)
    return found


def test_a_task_without_a_shared_disk_gives_the_bits_that_it_gives_here(
    task: Task, tmp_path: Path
) -> None:
    here, there = replace(task, out=str(tmp_path / "a")), replace(task, out=str(tmp_path / "b"))
    expected = run_task(here, contextlib.nullcontext)
    catalog, cache = Catalog(), BlobCache(tmp_path / "host")
    answer = sent(there, catalog, cache, tmp_path / "scratch")
    assert not (tmp_path / "b").exists()
    result = accept(
        there, answer["result"], received(there, answer), samples=len(np.load(task.validation[1]))
    )
    assert (result.correct, result.arithmetic) == (expected.correct, expected.arithmetic)
    for name in MODEL_FILES:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    # The next task of this host gets nothing again.
    text = RemoteTask.packed(there, catalog).to_json()
    assert "result" in run_elsewhere(text, cache, tmp_path / "again")
    assert str(tmp_path) not in text


def test_on_a_shared_disk_the_data_are_read_by_path_and_the_net_is_sent(
    task: Task, tmp_path: Path
) -> None:
    remote = RemoteTask.packed(task, Catalog(), device="cuda", is_shared=True)
    assert RemoteTask.from_json(remote.to_json()) == remote
    assert {*remote.paths.values()} == {*task.train, *task.validation}
    assert {*remote.blobs} == {f"start/{name}" for name in MODEL_FILES}
    assert (remote.task.device, remote.task.train_states) == ("cuda", task.train_states)


@pytest.fixture
def answer(task: Task, tmp_path: Path) -> dict[str, Any]:
    there = replace(task, out=str(tmp_path / "out"))
    return sent(there, Catalog(), BlobCache(tmp_path / "host"), tmp_path / "scratch")


def _changed(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        result = TaskResult.from_json(document["result"])
        document["result"] = replace(result, **fields).to_json()

    return change


def _text(**fields: str) -> Callable[[dict[str, Any]], None]:
    """Fields of the result as JSON texts."""

    def change(document: dict[str, Any]) -> None:
        known = {k: json.dumps(v) for k, v in json.loads(document["result"]).items()} | fields
        document["result"] = "{" + ",".join(f'"{k}":{v}' for k, v in known.items()) + "}"

    return change


def _without_weights(document: dict[str, Any]) -> None:
    del document["blobs"]["weights.safetensors"]


def _other_digest(document: dict[str, Any]) -> None:
    document["blobs"]["weights.safetensors"][0] = "0" * 64


@pytest.mark.parametrize("changes", ["[]", "[[3, 2.5]]", "[[0, 1], [7, 12.5]]"])
def test_a_result_and_how_it_was_shortened_is_taken(
    task: Task, answer: dict[str, Any], tmp_path: Path, changes: str
) -> None:
    document = json.loads(answer["result"])
    _text(schedule_changes=changes)(document)
    mine, samples = replace(task, out=str(tmp_path / "out")), len(np.load(task.validation[1]))
    found = accept(mine, json.dumps(document), received(mine, answer), samples=samples)
    assert [list(each) for each in found.schedule_changes] == json.loads(changes)


@pytest.mark.parametrize(
    "change",
    [
        _changed(correct="3:AA=="),
        _changed(correct="x"),
        _changed(seconds=(float("nan"),)),
        _changed(seconds=()),
        _changed(micro_batches="many"),
        _changed(share=-1.0),
        _without_weights,
        _other_digest,
        lambda document: document.update(blobs=7),
        lambda document: document.update(result="[" * 100_000),
        lambda document: document.update(result=[]),
        *(
            _text(schedule_changes=text)
            for text in (
                *("[[1, Infinity]]", "[[1e400, 1]]", "[[1]]", "5", '[["a", 1]]', "[[1, 0]]"),
                *("[[1, -2]]", "[[1, 1e-18]]", "[[-1, 2]]", "[[1, 1e300]]", "[[1.5, 2]]"),
            )
        ),
    ],
)
def test_a_result_that_cannot_be_of_the_task_is_a_lost_worker_and_writes_nothing(
    task: Task, answer: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    document = json.loads(answer["result"])
    change(document)
    mine, samples = replace(task, out=str(tmp_path / "out")), len(np.load(task.validation[1]))
    with pytest.raises(WorkerLost, match="sent no result"):
        accept(mine, json.dumps(document), received(mine, answer), samples=samples)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["another net", "not finite", "no weights"])
def test_only_a_net_of_the_task_with_finite_weights_is_written(
    task: Task, answer: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    mine, model = replace(task, out=str(tmp_path / "out")), Model.load(Path(task.start))
    if kind == "another net":
        mine = replace(mine, arch=make_trial(5).arch.to_json())
    elif kind == "not finite":
        weights = {name: torch.full_like(w, torch.nan) for name, w in model.weights.items()}
        model = replace(model, weights=weights)
    model.save(tmp_path / "net")
    content = {name: (tmp_path / "net" / name).read_bytes() for name in MODEL_FILES}
    if kind == "no weights":
        content["weights.safetensors"] = b"\x80\x04K\x01."
    document, found = json.loads(answer["result"]), Received(1 << 30)
    document["blobs"] = {}
    for name, each in content.items():
        blob = Blob.of(each)
        document["blobs"][name] = [blob.sha256, blob.size]
        for piece in pieces(blob, each):
            found.add(piece)
    with pytest.raises(WorkerLost, match=r"sent (?:no|a) net"):
        accept(mine, json.dumps(document), found)
    assert not (tmp_path / "out").exists()


def test_an_error_of_a_task_keeps_its_kind_and_one_of_a_machine_is_a_lost_worker(
    task: Task, tmp_path: Path
) -> None:
    about = {"what": "torn", "fix": "mend it", "kind": "DataError"}
    found = task_error(about)
    assert isinstance(found, DataError)
    assert (found.what, found.fix) == ("torn", "mend it")
    for kind in ("MachineError", "first_line", "LeptonErro", None):
        assert isinstance(task_error(about | {"kind": kind}), WorkerLost)
    with pytest.raises(DataError, match="cannot be read"):
        RemoteTask.packed(replace(task, start=str(tmp_path)), Catalog())


def test_paths_on_a_shared_disk_hold_in_any_working_directory(tmp_path, monkeypatch, task):
    monkeypatch.chdir(Path(task.train[0]).parent)
    relative = replace(task, train=(Path(task.train[0]).name, task.train[1]))
    remote = RemoteTask.packed(relative, Catalog(), is_shared=True)
    assert remote.paths["train/pixels"] == str(Path(task.train[0]).absolute())
