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


def test_a_final_net_is_rebuilt_bit_for_bit(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(1))
    trials.add_result(result(1, "0", 13, epochs=9, n=18))
    tasks, workers = Tasks(job, trials), InlineWorkers()
    runs = [FinalRun(1, 2), FinalRun(1, 2, seed=1)]
    job.ledger.record("plan", "final-0", {"finals": [run.to_event() for run in runs]})
    for run in runs:
        workers.run(final_task(run, 0, tasks, trials))
    first, second = (run.key(0) for run in runs)
    wanted = Model.load(tasks.checkpoint(second)).digest
    assert Model.load(tasks.checkpoint(first)).digest != wanted
    assert rebuild_checkpoint(second, tasks, trials, job.ledger) == []
    shutil.rmtree(tasks.checkpoint(second))
    (task,) = rebuild_checkpoint(second, tasks, trials, job.ledger)
    assert task.key == "1-final-0-1"
    workers.run(task)
    assert Model.load(tasks.checkpoint(second)).digest == wanted
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
    wanted = tasks.continued(candidate(0), 1, 5, TrainingKey(0, Stage.FINAL))
    assert rebuild_checkpoint(TrainingKey(0, Stage.FINAL), tasks, trials, job.ledger) == [wanted]
    job.ledger.close()
