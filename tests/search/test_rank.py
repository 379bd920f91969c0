"""One rank in a process of its own; this process is the other rank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lepton_automl.models.model import Model
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import TrainingKey, Trials
from lepton_automl.search.workers.launch import RANK_PROGRAM
from lepton_automl.search.workers.run_task import run_rank
from lepton_automl.training.distributed import ProcessGroup, init_process_group
from tests.helpers.search import make_trial, search_request


def test_a_rank_prints_nothing_and_rank_0_saves_the_model(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    task = TaskBuilder(job, trials).from_scratch(trials[0], 2, TrainingKey.parse("0-final-0"))
    rendezvous = tmp_path / "rendezvous"
    words = [sys.executable, "-c", RANK_PROGRAM, str(os.getpid()), str(rendezvous)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(f"0 2\n{task.to_json()}\n")
        process.stdin.flush()
        with init_process_group(
            rendezvous.as_uri(), ProcessGroup(1, 2)
        ) as ranks:  # The other process is rank 0.
            assert run_rank(task, ranks).correct == ""
        assert process.communicate()[0] == ""
    assert process.returncode == 0
    assert Model.load(Path(task.out)).arch == trials[0].arch
    job.ledger.close()
