from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.data.dataset import LabelledFiles, LabelledTensors
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import DataError
from lepton_automl.models.model import Model
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.run_task import run_task
from lepton_automl.search.workers.task import TIME_IS_OVER, Task, TaskResult, pack, unpack
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.recipe import Recipe
from tests.helpers.search import InlineWorkers, make_trial, search_request

RUN = InlineWorkers().run


@pytest.fixture
def task(tmp_path: Path) -> Task:
    job, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    job.ledger.close()
    return replace(TaskBuilder(job, trials).rung(trials[0], 0), cycles=((1, 5), (2, 6)))


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_packed_correctness_is_read_back(answers: list[bool]) -> None:
    assert unpack(pack(np.array(answers))).tolist() == answers


def test_a_task_and_its_result_survive_json(task: Task) -> None:
    assert Task.from_json(task.to_json()) == task
    result = TaskResult((0.1, 0.2), "3:oA==", "")
    assert TaskResult.from_json(result.to_json()) == result


@pytest.mark.parametrize("part", ["train", "validation"])
def test_pixels_that_change_after_the_task_was_made_end_it(task: Task, part: str) -> None:
    path = Path(getattr(task, part)[0])
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))
    path.with_name(f"{path.name}.sha256").unlink()
    with pytest.raises(DataError, match="has changed"):
        RUN(replace(Task.from_json(task.to_json()), out=""))


def test_steady_seconds_leave_out_the_start_of_a_short_training() -> None:
    result = TaskResult((9.0, 7.0), pictures_per_second=500.0)
    assert result.steady_seconds(3000) == 6.0
    assert result.steady_seconds(9000) == 7.0
    assert TaskResult((7.0,)).steady_seconds(3000) == 7.0
    assert TaskResult((0.7,), pictures_per_second=500.0).steady_seconds(300) == 0.7


def test_two_tasks_one_after_the_other_equal_one_of_all_their_cycles(
    task: Task, tmp_path: Path
) -> None:
    whole = RUN(replace(task, out=str(tmp_path / "whole")))
    RUN(replace(task, cycles=task.cycles[:1], out=str(tmp_path / "first")))
    second = replace(
        task, cycles=task.cycles[1:], start=str(tmp_path / "first"), out=str(tmp_path / "second")
    )
    assert RUN(second).correct == whole.correct
    for name in ("weights.safetensors", "arch.json", "model.json"):
        paths = [tmp_path / folder / name for folder in ("whole", "second")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_last_cycle_may_have_a_recipe_of_its_own(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def fit(model: Model, data: object, recipe: Recipe, **options: object) -> Model:
        del data, options
        used.append(recipe.flip)
        return model

    monkeypatch.setattr("lepton_automl.search.workers.run_task.fit", fit)
    other = replace(Recipe.from_json(task.recipe), flip=True)
    RUN(replace(task, out="", last_recipe=other.to_json()))
    assert used == [False, True]


def test_the_result_is_that_of_the_saved_model(task: Task) -> None:
    result = RUN(task)
    validation = _validation(task)
    saved = Model.load(Path(task.out))
    assert unpack(result.correct).tolist() == is_correct(saved, validation).tolist()
    assert len(result.seconds) == 2


def test_a_diverging_training_is_a_result_and_saves_nothing(task: Task) -> None:
    result = RUN(replace(task, scale=float("inf")))
    assert "loss became" in result.failed
    assert not Path(task.out).exists()


def test_a_probe_sees_only_so_many_samples(task: Task) -> None:
    few = RUN(replace(task, samples=8, cycles=((1, 0),)))
    many = RUN(replace(task, samples=0, cycles=((1, 0),)))
    assert few.correct != ""
    assert many.correct != ""


def test_a_task_with_less_memory_trains_its_last_cycle_in_micro_batches(task: Task) -> None:
    assert task.micro_batches_of_cycles == (1, 1)
    smaller = task.with_less_memory()
    assert smaller.micro_batches_of_cycles == (1, 4)
    assert smaller.with_less_memory().micro_batches_of_cycles == (1, 16)
    assert Task.from_json(smaller.to_json()) == smaller
    whole, split = RUN(task), RUN(smaller)
    assert (whole.micro_batches, split.micro_batches) == (1, 4)
    assert split.correct != ""
    assert RUN(smaller).correct == split.correct


def test_the_share_done_rises_to_one_over_all_cycles(task: Task) -> None:
    shares: list[float] = []
    run_task(task, contextlib.nullcontext, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    # The first of the two cycles is one epoch of three.
    assert any(share == pytest.approx(1 / 3) for share in shares)


def test_a_training_over_its_time_stops_with_its_share_and_saves_nothing(task: Task) -> None:
    limited = replace(task, cycles=((2, 5), (2, 6)), samples=80, max_seconds=1e-9)
    assert Task.from_json(limited.to_json()) == limited
    stopped = RUN(limited)
    assert stopped.is_stopped
    assert stopped.correct == ""
    assert 0 < stopped.share <= 0.25  # It stops after the first of its batches.
    assert not (Path(task.out) / "weights.safetensors").exists()
    assert not RUN(replace(limited, max_seconds=600.0)).is_stopped


def test_a_training_over_its_time_may_be_shortened_and_be_repeated(task: Task) -> None:
    limited = replace(task, cycles=((2, 5), (40, 6)), max_seconds=1e-9, is_shortened=True)
    assert Task.from_json(limited.to_json()) == limited
    shortened = RUN(limited)
    assert shortened.failed == ""
    assert 0 < shortened.share < 1
    assert TaskResult.from_json(shortened.to_json()) == shortened
    saved = Model.load(Path(task.out))
    assert unpack(shortened.correct).tolist() == is_correct(saved, _validation(task)).tolist()
    again = replace(limited, max_seconds=0.0, schedule_changes=shortened.schedule_changes)
    assert Task.from_json(again.to_json()) == again
    repeated = RUN(again)
    assert (repeated.share, repeated.correct) == (shortened.share, shortened.correct)
    assert Model.load(Path(task.out)).digest == saved.digest
    whole = RUN(replace(limited, max_seconds=600.0))
    assert (whole.share, whole.schedule_changes) == (1.0, ())


def _validation(task: Task) -> LabelledTensors:
    return load_labelled(LabelledFiles(Path(task.validation[0]), Path(task.validation[1])))


def test_the_speed_of_a_stopped_training_is_that_of_the_part_that_was_trained(task: Task) -> None:
    probe = replace(task, cycles=((1, 0), (3, 0)), samples=1000)
    one_epoch = work_of(10**6, 1000, 1)
    whole = TaskResult((5.0, 6.0))
    assert whole.seconds_per_work(probe, 10**6) == pytest.approx(2.0 / one_epoch)
    stopped = TaskResult((2.0, 1.0), failed=TIME_IS_OVER, share=0.375)
    assert stopped.seconds_per_work(probe, 10**6) == pytest.approx(2.0 / one_epoch)
    measured = replace(stopped, pictures_per_second=1000.0)
    assert measured.seconds_per_work(probe, 10**6) == pytest.approx(1.0 / one_epoch)
    assert TaskResult(failed="diverged").seconds_per_work(probe, 10**6) is None
