"""A search trains on the train part and decides by the validation part; the test part is not read.

Labels are noisy by another share in each part, so that every accuracy names its part.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lepton_automl.data.dataset import Dataset
from lepton_automl.data.opening import open_dataset
from lepton_automl.models.model import Model
from lepton_automl.search.finals.selection import Option, choose
from lepton_automl.search.finals.training import FinalTraining
from lepton_automl.search.finals.winner import WinnerStore
from lepton_automl.search.loop import search
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock
from lepton_automl.search.trials import Trials, result_event
from lepton_automl.search.workers.task import Task, TaskResult, pack
from lepton_automl.training.evaluate import predict_logits
from tests.helpers.search import InlineWorkers, make_trial, result, search_request

COUNTS = {"train": 120, "val": 90, "test": 60}
NOISE = {"train": 0, "val": 6, "test": 2}
"""One label in so many is another class; 0: none."""
SHAPE = (10, 7)
GROUPS = 400
ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)


def part(name: str, seed: int) -> dict[str, np.ndarray]:
    """Bright rows, columns or corners, not square, with noise."""
    rng, shapes = np.random.default_rng(seed), np.zeros((3, *SHAPE))
    shapes[0, ::3], shapes[1, :, ::3], shapes[2, :4, :4] = 150, 150, 170
    labels = np.arange(COUNTS[name]) % 3
    pictures = shapes[labels] + rng.normal(60, 25, (len(labels), *SHAPE))
    if NOISE[name]:
        labels = np.where(np.arange(len(labels)) % NOISE[name], labels, (labels + 1) % 3)
    return {f"x_{name}": pictures.clip(0, 255).astype(np.uint8), f"y_{name}": labels}


def data(folder: Path, **changed: dict[str, np.ndarray]) -> tuple[Dataset, dict[str, np.ndarray]]:
    """All parts, those of `changed` instead of the usual ones."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: part(name, seed) for seed, name in enumerate(COUNTS)} | changed
    arrays = {key: array for each in parts.values() for key, array in each.items()}
    np.savez(folder / "parts.npz", **arrays)
    return open_dataset(str(folder / "parts.npz")), arrays


def searched(
    folder: Path, dataset: Dataset, **more: object
) -> tuple[SearchRequest, InlineWorkers, SearchResult]:
    """A finished search of two trials."""
    request = search_request(folder / "run", dataset=dataset, trials=2, seed=3, **more)
    workers = InlineWorkers()
    return request, workers, search(request, workers)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("usual")
    dataset, arrays = data(folder)
    request, workers, found = searched(folder, dataset)
    yield request, workers, found, arrays
    request.ledger.close()


def events(request: SearchRequest) -> list[tuple[str, str, object]]:
    """Everything that the search recorded, without the seconds it took."""
    return [
        (kind, key, {name: value for name, value in event.items() if name != "seconds"})
        for kind, key, event in request.ledger.events()
    ]


def test_another_test_part_gives_the_same_search_and_the_same_net(usual, tmp_path):
    other = part("test", 9)
    other["x_test"], other["y_test"] = 255 - other["x_test"], (other["y_test"] + 1) % 3
    dataset, _ = data(tmp_path, test=other)
    request, _, found = searched(tmp_path, dataset)
    assert dataset.part_fingerprint("test") != usual[0].dataset.part_fingerprint("test")
    assert found.best.digest == usual[2].best.digest
    assert found.predictions.tolist() == usual[2].predictions.tolist()
    assert events(request) == events(usual[0])
    request.ledger.close()


def test_every_recorded_accuracy_is_that_of_the_validation_part(usual):
    request, _, found, arrays = usual
    model = Model.load(request.folder.best)
    right = {}
    for name in COUNTS:
        logits = predict_logits(model, torch.from_numpy(arrays[f"x_{name}"][..., None]))
        right[name] = logits.argmax(1).numpy() == arrays[f"y_{name}"]
    assert right["train"].mean() > right["val"].mean() > right["test"].mean()
    assert found.correct.tolist() == right["val"].tolist()
    assert model.metrics["validation_accuracy"] == pytest.approx(right["val"].mean())
    for event in request.ledger.all("rung").values():
        assert event["correct"].startswith(f"{COUNTS['val']}:")


def test_every_training_reads_the_train_part_and_is_scored_on_validation(usual):
    _, workers, found, arrays = usual
    mean, deviation = arrays["x_train"].mean(), arrays["x_train"].std()
    assert found.best.preprocessing.zero_point == round(mean)
    assert found.best.preprocessing.scale == pytest.approx(1 / deviation, rel=1e-6)
    assert len(workers.tasks) > 2
    for task in workers.tasks:
        assert task.zero_point == round(mean)
        for files, name in ((task.train, "train"), (task.validation, "val")):
            pixels, labels = (np.load(file) for file in files)
            assert (pixels[..., 0] == arrays[f"x_{name}"]).all()
            assert (labels == arrays[f"y_{name}"]).all()


class Counted(InlineWorkers):
    """Trains nothing; the results are those of the search."""

    def run(self, task: Task) -> TaskResult:
        return TaskResult((0.01,), pack(correct(int(task.key.split("-")[0]))))


def correct(number: int) -> np.ndarray:
    """Of 1600 validation samples 1400 are right, and seven more of the more expensive net."""
    found = np.arange(4 * GROUPS) < 1400
    found[1400:1407] = number == 1
    return found


def with_groups(folder: Path, groups: np.ndarray | None) -> SearchRequest:
    request = search_request(folder / "run")
    count = 4 * GROUPS
    validation = dataclasses.replace(
        request.dataset.validation, labels=np.arange(count) % 3, groups=groups
    )
    test = dataclasses.replace(request.dataset.test, groups=np.arange(len(request.dataset.test)))
    dataset = dataclasses.replace(request.dataset, validation=validation, test=test)
    return dataclasses.replace(request, dataset=dataset)


@pytest.mark.parametrize(("is_grouped", "leads"), [(False, 1), (True, 0)])
def test_a_lead_within_one_group_is_no_lead(tmp_path, is_grouped, leads):
    """The cheaper net misses seven samples of 1600: all of one group, or each on its own."""
    groups = np.arange(4 * GROUPS) // 8
    request = with_groups(tmp_path, groups if is_grouped else None)
    trials = Trials()
    for number, size in ((0, 9_000), (1, 12_000)):
        trials.add(make_trial(number, size=size))
        each = dataclasses.replace(
            result(number, "0", 0, epochs=9), packed_correct=pack(correct(number))
        )
        trials.add_result(each)
        request.ledger.record("trial", str(number), trials[number].to_event())
    tasks = TaskBuilder(request, trials)
    winners = WinnerStore(request, tasks, trials)
    assert winners.leader() == leads
    options = [
        Option(n, correct(n), trials[n].cost, request.dataset.validation.groups) for n in trials
    ]
    finals = FinalTraining(request, tasks, trials, 0).train(options, Counted(), ENDLESS)
    assert len(finals) == 2
    assert choose(finals, request.config.goal).number == leads
    for option in finals:
        assert (option.groups is None) != is_grouped
        assert option.groups is None or (option.groups == groups).all()
    request.ledger.close()


@dataclasses.dataclass
class Validation:
    strata: np.ndarray
    groups: np.ndarray | None


def test_the_interval_of_a_balanced_accuracy_is_over_groups():
    """Each group of eight is right or wrong as a whole; classes take turns within it."""
    right = np.repeat(np.random.default_rng(0).random(40) < 0.7, 8)
    widths = []
    for groups in (None, np.repeat(np.arange(40), 8)):
        validation = Validation(strata=np.arange(len(right)) % 2, groups=groups)
        event = result_event(TaskResult((1.0,), pack(right)), 9, validation)
        widths.append(event["balanced"]["high"] - event["balanced"]["low"])
    assert widths[1] > 2 * widths[0]
