"""A small search for tests: 8x8 pictures of three classes, a small space, tasks in this process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lepton_automl.config import RunConfig
from lepton_automl.cost import targets
from lepton_automl.cost.cost import Cost
from lepton_automl.data.dataset import Dataset
from lepton_automl.data.opening import open_dataset
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.executors import Executor
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space import loader, search_space
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import RungResult, Trial
from lepton_automl.search.workers.run_task import run_task
from lepton_automl.search.workers.task import Task, TaskResult, pack
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch

SPACE = """
doc = "small"
[input]
resolution = "native"
[stem]
out = [8, 16]
[[stage]]
layer = "conv"
out = [8, 16, 24]
stride = 2
[head]
features = [0, 16]
[train]
lr = [0.05, 0.02]
weight_decay = [5e-4, 5e-3]
batch_size = 32
epochs = 9
[[candidate]]
name = "known"
stem = { out = 8 }
stage1 = { out = 16 }
"""


def dataset(folder: Path, per_class: int | list[int] = 40) -> Dataset:
    """Noisy stripes, blocks and points, so many of each, written as an npz file."""
    rng = np.random.default_rng(0)
    shapes = np.zeros((3, 8, 8))
    shapes[0, ::2], shapes[1, :4, :4], shapes[2, 2:6:3, 2:6:3] = 150, 150, 250
    labels = np.repeat(np.arange(3), per_class)
    pictures = shapes[labels] + rng.normal(60, 40, (len(labels), 8, 8))
    path = folder / "data.npz"
    np.savez(path, x=pictures.clip(0, 255).astype(np.uint8), y=labels)
    return open_dataset(str(path))


def small_space(folder: Path, text: str = SPACE) -> search_space.SearchSpace:
    """The search space of `text`."""
    path = folder / "small.toml"
    path.write_text(text)
    return loader.load(str(path))


def search_request(folder: Path, ledger: Ledger | None = None, **changes: Any) -> SearchRequest:
    """The request of a search of six trials in `folder`; data and space are beside it.

    `changes` are fields of the configuration or of the request.
    """
    shared = {"space", "target", "device"}  # Fields of both; here those of the request.
    of_config = {item.name for item in dataclasses.fields(RunConfig)} - shared
    settings = {"objectives": ("accuracy", "size_bytes"), "jobs": 1, "trials": 6, "folds": "off"}
    settings |= {name: changes.pop(name) for name in of_config & changes.keys()}
    fields: dict[str, Any] = {
        "config": RunConfig(data="", out=folder, **settings),
        "dataset": dataset(folder.parent),
        "space": small_space(folder.parent),
        "target": targets.load(),
        "latency_model": None,
        "folder": RunFolder(folder),
        "ledger": ledger or Ledger(folder / "ledger.db"),
        "device": torch.device("cpu"),
    }
    return SearchRequest(**(fields | changes))


class InlineWorkers(Executor):
    """Runs tasks in this process when their results are asked for, and remembers them."""

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self.tasks: list[Task] = []
        self._waiting: deque[Task] = deque()

    @property
    def free(self) -> int:
        return self.jobs - len(self._waiting)

    @property
    def busy(self) -> list[Task]:
        return list(self._waiting)

    def facts(self) -> dict[str, Any]:
        running = [{"task": task.key, "share": 0.5} for task in self._waiting]
        return {"first": 0.0, "workers": [*running, {"task": "", "share": 0.0}]}

    def start(self, task: Task) -> None:
        self._waiting.append(task)

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        del timeout
        task = self._waiting.popleft()
        self.tasks.append(task)
        return [(task, self.run(task))]

    def run(self, task: Task) -> TaskResult:
        return run_task(task, contextlib.nullcontext)

    def close(self) -> None:
        self._waiting.clear()


class ScoredWorkers(InlineWorkers):
    """Trains nothing: a task's result is decided by its key."""

    def run(self, task: Task) -> TaskResult:
        seed = sum(task.key.encode()) + 1000 * len(task.cycles)
        share = 0.5 + 0.4 * np.random.default_rng(seed).random()
        return TaskResult((0.01,) * len(task.cycles), pack(np.arange(200) < 200 * share))


def make_trial(number: int, *, size: int = 10_000, epochs: int = 9, **params: Any) -> Trial:
    """A trial with a random architecture."""
    arch = random_arch(number, input=(8, 8, 1), classes=3)
    cost = Cost(size, size // 2, size // 2, arch.graph.macs, 2_000)
    return Trial(number, params, {}, arch.to_json(), Recipe(epochs=epochs).to_json(), cost)


def result(
    number: int, label: str, right: int, *, epochs: int = 1, n: int = 200, failed: str = ""
) -> RungResult:
    """A result of a training with so many correct samples of `n`."""
    key = TrainingKey.parse(f"{number}-{label}")
    return RungResult(key, epochs, pack(np.arange(n) < right), failed)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"
