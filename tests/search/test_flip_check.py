from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.data.dataset import open_dataset
from lepton_automl.search.flip_check import keeps_classes, with_flip_checked
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space import loader
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import InlineWorkers, search_request


def right(share: float, count: int = 2000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


@pytest.mark.parametrize(
    ("plain", "mirrored", "wanted"),
    [(0.5, 0.5, True), (0.9, 0.4, False), (0.1, 0.1, False), (0.8, 0.79, True), (0.4, 0.3, False)],
)
def test_flips_stay_where_mirrored_samples_are_classified_as_well(
    plain: float, mirrored: float, wanted: bool
) -> None:
    assert keeps_classes(right(plain), right(mirrored, seed=1), 10) is wanted


@given(st.floats(0.2, 1.0), st.integers(0, 5))
def test_flips_stay_where_mirroring_changes_no_result(share: float, seed: int) -> None:
    same = right(share, seed=seed)
    assert keeps_classes(same, same, 20)


def test_a_loss_within_chance_keeps_flips() -> None:
    assert keeps_classes(right(0.60, 60), right(0.50, 60, seed=2), 10)
    assert not keeps_classes(right(0.60, 6000), right(0.50, 6000, seed=2), 10)


class FixedAccuracyWorkers(InlineWorkers):
    """Trains nothing: every task has the same two accuracies."""

    def __init__(self, plain: float, mirrored: float) -> None:
        super().__init__()
        self.plain, self.mirrored = plain, mirrored

    def run(self, task: Task) -> TaskResult:
        correct = pack(right(self.plain)), pack(right(self.mirrored, seed=1))
        return TaskResult((2.0, 1.0), *correct)


def job(tmp_path: Path) -> SearchRequest:
    return replace(search_request(tmp_path / "run"), space=loader.load("tiny"))


@pytest.mark.parametrize(("mirrored", "flips"), [(0.3, {False}), (0.8, {False, True})])
def test_the_check_runs_once_and_decides_the_space(
    tmp_path: Path, mirrored: float, flips: set[bool]
) -> None:
    request, workers = job(tmp_path), FixedAccuracyWorkers(0.8, mirrored)
    tasks = TaskBuilder(request, Trials())
    for _ in range(2):
        found = with_flip_checked(request, tasks, workers)
        assert {v for p in found.train_parameters("flip") for v in p.values} == flips
        assert found.digest == request.space.digest
    assert len(workers.tasks) == 1
    assert workers.tasks[0].evaluates_mirrored
    assert '"flip":false' in workers.tasks[0].recipe
    request.ledger.close()


def test_a_space_without_flips_is_not_checked(tmp_path: Path) -> None:
    request, workers = job(tmp_path), FixedAccuracyWorkers(0.8, 0.8)
    request = replace(request, space=request.space.with_fixed("flip", value=False))
    assert with_flip_checked(request, TaskBuilder(request, Trials()), workers) is request.space
    assert not workers.tasks
    request.ledger.close()


def test_digits_are_not_flipped(tmp_path: Path) -> None:
    request, workers = replace(job(tmp_path), dataset=open_dataset("digits")), InlineWorkers()
    found = with_flip_checked(request, TaskBuilder(request, Trials()), workers)
    assert {v for p in found.train_parameters("flip") for v in p.values} == {False}
    request.ledger.close()


def test_with_balanced_classes_a_rare_class_that_needs_its_orientation_removes_flips() -> None:
    labels = np.repeat([0, 1], [1900, 100])
    plain, mirrored = np.ones(2000, bool), (labels == 0) | (np.arange(2000) % 2 == 0)
    assert keeps_classes(plain, mirrored, 2)
    assert not keeps_classes(plain, mirrored, 2, labels)
