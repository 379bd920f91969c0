"""A member that is a process of its own, whose team is this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lepton_automl.models.model import Model
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import TrainingKey, Trials
from lepton_automl.search.workers.launch import RANK_PROGRAM
from lepton_automl.search.workers.task import run_share
from lepton_automl.training.distributed import ProcessGroup, init_process_group
from tests.helpers.search import candidate, work


def test_a_member_says_nothing_and_leaves_writing_to_the_first(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    trials.add(candidate(0))
    task = Tasks(job, trials).fresh(trials[0], 2, TrainingKey.parse("0-final-0"))
    meeting = tmp_path / "meeting"
    words = [sys.executable, "-c", RANK_PROGRAM, str(os.getpid()), str(meeting)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(f"0 2\n{task.to_json()}\n")
        process.stdin.flush()
        with init_process_group(
            meeting.as_uri(), ProcessGroup(1, 2)
        ) as ranks:  # Here the member is the first.
            assert run_share(task, ranks).correct == ""
        assert process.communicate()[0] == ""
    assert process.returncode == 0
    assert Model.load(Path(task.out)).arch == trials[0].arch
    job.ledger.close()
