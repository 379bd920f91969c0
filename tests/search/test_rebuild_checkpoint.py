from __future__ import annotations

import shutil
from pathlib import Path

from lepton_automl.models.model import Model
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.training import final_task, rebuild_checkpoint
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trials
from tests.helpers.search import InlineWorkers, make_trial, result, search_request


def test_a_final_training_is_repeated_bit_for_bit(tmp_path: Path) -> None:
    request, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(1))
    trials.add_result(result(1, "0", 13, epochs=9, n=18))
    tasks, workers = TaskBuilder(request, trials), InlineWorkers()
    runs = [FinalRun(1, 2), FinalRun(1, 2, seed=1)]
    request.ledger.record("plan", "final-0", {"finals": [run.to_event() for run in runs]})
    for run in runs:
        workers.run(final_task(run, 0, tasks, trials))
    first, second = (run.key(0) for run in runs)
    wanted = Model.load(tasks.checkpoint(second)).digest
    assert Model.load(tasks.checkpoint(first)).digest != wanted
    assert rebuild_checkpoint(second, tasks, trials, request.ledger) is None
    shutil.rmtree(tasks.checkpoint(second))
    task = rebuild_checkpoint(second, tasks, trials, request.ledger)
    assert task is not None
    assert task.key == "1-final-0-1"
    workers.run(task)
    assert Model.load(tasks.checkpoint(second)).digest == wanted
    request.ledger.close()


def test_a_checkpoint_of_a_rung_is_created_by_that_rung(tmp_path: Path) -> None:
    request, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    tasks = TaskBuilder(request, trials)
    assert rebuild_checkpoint(TrainingKey(0), tasks, trials, request.ledger) == tasks.rung(
        make_trial(0), 0
    )
    request.ledger.close()


def test_a_continued_training_is_continued_again(tmp_path: Path) -> None:
    request, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    trials.add_result(result(0, "0", 12, epochs=9, n=18))
    tasks, final = TaskBuilder(request, trials), FinalRun(0, 5, from_scratch=False)
    request.ledger.record("plan", "final-0", {"finals": [final.to_event()]})
    wanted = tasks.continued(make_trial(0), 1, 5, TrainingKey(0, Stage.FINAL))
    assert rebuild_checkpoint(TrainingKey(0, Stage.FINAL), tasks, trials, request.ledger) == wanted
    request.ledger.close()
