from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.data.dataset import open_dataset
from lepton_automl.search.flip_check import is_favoured, oriented
from lepton_automl.search.request import SearchWork
from lepton_automl.search.space import loader
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.task import Task, TaskResult, pack
from tests.helpers.search import InlineWorkers, work


def right(share: float, count: int = 2000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


@pytest.mark.parametrize(
    ("plain", "mirrored", "wanted"),
    [(0.5, 0.5, True), (0.9, 0.4, False), (0.1, 0.1, False), (0.8, 0.79, True), (0.4, 0.3, False)],
)
def test_flips_are_favoured_where_mirrored_pictures_are_recognised_as_well(
    plain: float, mirrored: float, wanted: bool
) -> None:
    assert is_favoured(right(plain), right(mirrored, seed=1), 10) is wanted


@given(st.floats(0.2, 1.0), st.integers(0, 5))
def test_a_net_for_which_nothing_changes_always_favours_them(share: float, seed: int) -> None:
    same = right(share, seed=seed)
    assert is_favoured(same, same, 20)


def test_few_samples_get_the_benefit_of_the_doubt_and_many_do_not() -> None:
    assert is_favoured(right(0.60, 60), right(0.50, 60, seed=2), 10)
    assert not is_favoured(right(0.60, 6000), right(0.50, 6000, seed=2), 10)


class Answering(InlineWorkers):
    """Answers as told, and keeps what it was asked."""

    def __init__(self, plain: float, mirrored: float) -> None:
        super().__init__()
        self.plain, self.mirrored = plain, mirrored

    def run(self, task: Task) -> TaskResult:
        answers = pack(right(self.plain)), pack(right(self.mirrored, seed=1))
        return TaskResult((2.0, 1.0), *answers)


def job(tmp_path: Path) -> SearchWork:
    return replace(work(tmp_path / "run"), space=loader.load("tiny"))


@pytest.mark.parametrize(("mirrored", "flips"), [(0.3, {False}), (0.8, {False, True})])
def test_the_answer_is_asked_for_once_and_decides_the_space(
    tmp_path: Path, mirrored: float, flips: set[bool]
) -> None:
    asked, workers = job(tmp_path), Answering(0.8, mirrored)
    tasks = Tasks(asked, Trials())
    for _ in range(2):
        found = oriented(asked, tasks, workers)
        assert {v for knob in found.train_parameters("flip") for v in knob.values} == flips
        assert found.digest == asked.space.digest
    assert len(workers.tasks) == 1
    assert workers.tasks[0].mirrors
    assert '"flip":false' in workers.tasks[0].recipe
    asked.ledger.close()


def test_a_space_that_never_flips_is_not_asked_about(tmp_path: Path) -> None:
    asked, workers = job(tmp_path), Answering(0.8, 0.8)
    asked = replace(asked, space=asked.space.with_fixed("flip", value=False))
    assert oriented(asked, Tasks(asked, Trials()), workers) is asked.space
    assert not workers.tasks
    asked.ledger.close()


def test_digits_are_not_flipped(tmp_path: Path) -> None:
    asked, workers = replace(job(tmp_path), dataset=open_dataset("digits")), InlineWorkers()
    found = oriented(asked, Tasks(asked, Trials()), workers)
    assert {v for knob in found.train_parameters("flip") for v in knob.values} == {False}
    asked.ledger.close()


def test_where_classes_count_alike_a_rare_one_that_mirroring_spoils_forbids_flips() -> None:
    labels = np.repeat([0, 1], [1900, 100])
    plain, mirrored = np.ones(2000, bool), (labels == 0) | (np.arange(2000) % 2 == 0)
    assert is_favoured(plain, mirrored, 2)
    assert not is_favoured(plain, mirrored, 2, labels)
