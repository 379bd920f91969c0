from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lepton_automl.core.events import Event
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.training import LESSON, confirmed, lesson_for, lesson_of, told
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.time_plan import TASK_SECONDS, Clock
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trials, read_trials
from lepton_automl.search.workers.task import Task, TaskResult
from tests.helpers.nets import random_arch
from tests.helpers.search import candidate, result, work
from tests.search.test_final_training import ENDLESS, Told, confirmation, pretend_trained
from tests.search.test_final_training import some as recorded

FINALS = [FinalRun(number, 40) for number in range(4)] + [FinalRun(1, 40, 1)]
RIGHT = {"0-final-0": 150, "1-final-0": 170, "2-final-0": 160, "3-final-0": 190, "1-final-0-1": 175}


def some(**failed: str) -> Trials:
    """Four candidates after their last trainings; the last one sees larger pictures."""
    trials = Trials()
    for number in range(4):
        trials.add(candidate(number))
        trials.add_result(result(number, "0", 120))
    for final in FINALS:
        key = final.key(0)
        trials.add_result(
            result(final.number, key.label, RIGHT[str(key)], failed=failed.get(str(key), ""))
        )
    wide = random_arch(3, input=(16, 16, 1), classes=3)
    trials.replace(dataclasses.replace(candidate(3), arch_json=wide.to_json()))
    return trials


def test_the_best_nets_of_all_finalists_that_see_pictures_of_the_same_size_teach() -> None:
    wanted = FinalRun(0, 40, teachers=("0-final-0", "1-final-0-1", "2-final-0"))
    assert lesson_for(0, FINALS, some(), 0) == wanted
    assert str(wanted.key(0)) == "0-final-0-taught"
    assert "learns from trials 0, 1, 2" in told(wanted)
    lesson = lesson_for(0, FINALS, some(**{"1-final-0-1": "the loss became nan"}), 0)
    assert lesson is not None
    assert lesson.teachers == ("0-final-0", "1-final-0", "2-final-0")


def test_nobody_is_taught_by_itself_alone_or_without_having_been_trained_from_nothing() -> None:
    trials = some()
    assert lesson_for(3, FINALS, trials, 0) is None
    assert lesson_for(1, [FINALS[1], FINALS[4]], trials, 0) is None
    scarce = [dataclasses.replace(final, is_fresh=False) for final in FINALS]
    assert lesson_for(0, scarce, trials, 0) is None
    failed = some(**{"0-final-0": "the loss became nan"})
    assert lesson_for(0, FINALS, failed, 0) is None


def test_a_ledger_knows_the_lesson_of_each_round(tmp_path: Path) -> None:
    job, lesson = work(tmp_path / "run"), FinalRun(0, 40, teachers=("0-final-1", "1-final-1"))
    assert lesson_of(job.ledger, 0) is None
    job.ledger.record("plan", f"{LESSON}-0", {"finals": []})
    job.ledger.record("plan", f"{LESSON}-1", {"finals": [lesson.to_event()]})
    assert [lesson_of(job.ledger, n) for n in range(3)] == [None, lesson, None]
    job.ledger.close()


def test_the_winner_has_one_lesson_from_all_finalists_that_changes_nobodys_figures(
    tmp_path: Path,
) -> None:
    happened: list[Event] = []
    job = work(tmp_path / "run", emit=happened.append)
    trials, options = recorded(job, 180, 190, 170)
    scores = {"0-final-0": 170, "1-final-0": 180, "2-final-0": 160, "0-final-0-taught": 175}
    confirm, workers = confirmation(job, trials), Told(scores)
    before = confirm.run(options, workers, ENDLESS)
    pretend_trained(job, trials)
    confirm.teach(0, workers, ENDLESS)
    lesson = workers.tasks[-1]
    assert lesson.key == "0-final-0-taught"
    checkpoint = Tasks(job, trials).checkpoint
    assert set(lesson.teachers) == {str(checkpoint(TrainingKey(n, Stage.FINAL))) for n in range(3)}
    said = [event.message for event in happened if event.stage == "search"]
    assert "trial 0 is trained from nothing once more" in said[-2]
    assert "learns from trials 1, 0, 2" in said[-2]
    assert "87.50%" in said[-1]
    after = confirm.run([], Told({}), ENDLESS)
    assert [(o.number, o.accuracy) for o in after] == [(o.number, o.accuracy) for o in before]
    by_number = {each.number: each for each in confirmed(job.ledger, trials, 0)}
    assert [by_number[n].taught for n in range(3)] == [0.875, None, None]
    assert by_number[0].accuracies == (0.85,)
    job.ledger.close()


def test_a_lesson_once_decided_is_given_also_after_an_interruption(tmp_path: Path) -> None:
    class Dies(Told):
        def run(self, task: Task) -> TaskResult:
            if task.teachers:
                raise KeyboardInterrupt
            return super().run(task)

    job = work(tmp_path / "run")
    trials, options = recorded(job, 180, 190, 170)
    scores = {"0-final-0": 170, "1-final-0": 180, "2-final-0": 160, "1-final-0-taught": 199}
    confirm, first = confirmation(job, trials), Dies(scores)
    confirm.run(options, first, ENDLESS)
    pretend_trained(job, trials)
    with pytest.raises(KeyboardInterrupt):
        confirm.teach(1, first, ENDLESS)
    again, trials = Told(scores), read_trials(job.ledger)
    confirmation(job, trials).teach(1, again, ENDLESS)
    assert again.tasks == [first.tasks[-1]]
    assert trials.best_result(1).key.label == "final-0-taught"
    confirmation(job, trials).teach(1, again, ENDLESS)
    assert len(again.tasks) == 1
    job.ledger.close()


@pytest.mark.parametrize("left", [0.9, 1.1])
def test_a_lesson_is_given_only_where_its_teachers_answers_fit_into_the_time(
    tmp_path: Path, left: float
) -> None:
    job = work(tmp_path / "run")
    trials, options = recorded(job, 180, 170)
    workers = Told({"0-final-0": 170, "1-final-0": 160, "0-final-0-taught": 160})
    confirm = confirmation(job, trials)
    confirm.run(options, workers, ENDLESS)
    pretend_trained(job, trials)
    own, other = (trials[n].cost.macs for n in range(2))
    units = 9 * Tasks(job, trials).samples * (1.5 * own + 0.5 * other + 700_000)
    # A second for the training by itself, with the margin of everything that is planned.
    clock = Clock(lambda: left * 1.15 + TASK_SECONDS, 0.0, 1 / units)
    confirm.teach(0, workers, clock)
    assert [task.key for task in workers.tasks[2:]] == (["0-final-0-taught"] if left > 1 else [])
    confirm.teach(0, workers, ENDLESS)  # Decided once.
    assert len(workers.tasks) == (3 if left > 1 else 2)
    job.ledger.close()


def test_a_lesson_that_fails_leaves_the_winner_as_it_was(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    trials, options = recorded(job, 180, 170)
    workers = Told({"0-final-0": 185, "1-final-0": 160, "0-final-0-taught": -1})
    confirm = confirmation(job, trials)
    confirm.run(options, workers, ENDLESS)
    pretend_trained(job, trials)
    confirm.teach(0, workers, ENDLESS)
    assert trials.best_result(0).key.label == "final-0"
    assert workers.tasks[-1].teachers
    assert all(about.taught is None for about in confirmed(job.ledger, trials, 0))
    job.ledger.close()
