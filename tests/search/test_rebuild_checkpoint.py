from __future__ import annotations

import shutil
from pathlib import Path

from lepton_automl.models.model import Model
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.training import final_task, rebuild_checkpoint
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trials
from tests.helpers.search import InlineWorkers, candidate, result, work


def test_a_taught_net_and_its_teacher_are_made_again_bit_for_bit(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    for number in range(2):
        trials.add(candidate(number))
        trials.add_result(result(number, "0", 12 + number, epochs=9, n=18))
    tasks, workers = Tasks(job, trials), InlineWorkers()
    taught = TrainingKey.parse("0-final-0-taught")
    plans = {"final-0": FinalRun(1, 2), "lesson-0": FinalRun(0, 3, teachers=("0-0", "1-final-0"))}
    for name, final in plans.items():
        job.ledger.record("plan", name, {"finals": [final.to_event()]})
    for task in (
        tasks.rung(candidate(0), 0),
        *(final_task(f, 0, tasks, trials) for f in plans.values()),
    ):
        workers.run(task)
    wanted = Model.load(tasks.checkpoint(taught)).digest
    assert rebuild_checkpoint(taught, tasks, trials, job.ledger) == []
    shutil.rmtree(tasks.checkpoint(taught))
    (alone,) = rebuild_checkpoint(taught, tasks, trials, job.ledger)
    assert alone.key == "0-final-0-taught"
    for key in (TrainingKey(0), TrainingKey(1, Stage.FINAL)):
        shutil.rmtree(tasks.checkpoint(key))
    todo = rebuild_checkpoint(taught, tasks, trials, job.ledger)
    assert [task.key for task in todo] == ["0-0", "1-final-0", "0-final-0-taught"]
    for task in todo:
        workers.run(task)
    assert Model.load(tasks.checkpoint(taught)).digest == wanted
    job.ledger.close()


def test_a_net_of_the_search_is_made_by_its_rung(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(0))
    tasks = Tasks(job, trials)
    assert rebuild_checkpoint(TrainingKey(0), tasks, trials, job.ledger) == [
        tasks.rung(candidate(0), 0)
    ]
    job.ledger.close()


def test_a_training_that_went_on_from_the_search_goes_on_again(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(0))
    trials.add_result(result(0, "0", 12, epochs=9, n=18))
    tasks, final = Tasks(job, trials), FinalRun(0, 5, is_fresh=False)
    job.ledger.record("plan", "final-0", {"finals": [final.to_event()]})
    wanted = tasks.final(candidate(0), 1, 5, TrainingKey(0, Stage.FINAL))
    assert rebuild_checkpoint(TrainingKey(0, Stage.FINAL), tasks, trials, job.ledger) == [wanted]
    job.ledger.close()
