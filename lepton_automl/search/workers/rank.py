"""One rank of a process group: trains its part of every batch and returns no result."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lepton_automl.search.workers.launch import GroupPart
from lepton_automl.search.workers.run_task import run_rank
from lepton_automl.search.workers.task import Task
from lepton_automl.training.distributed import (
    ProcessGroup,
    exit_without_cleanup,
    init_process_group,
)

_STDOUT, _STDERR = 1, 2


def main() -> None:
    """Read rank and task from standard input; the second argument is the rendezvous file.

    The line of the rank ends with the `GroupPart` where the group is on several hosts.
    """
    os.dup2(_STDERR, _STDOUT)  # What a library prints must not fill a pipe that is never read.
    torch.set_num_threads(1)
    rank, count, *part = sys.stdin.readline().split(maxsplit=2)
    task = Task.from_json(sys.stdin.readline())
    with init_process_group(
        Path(sys.argv[2]).absolute().as_uri(),
        ProcessGroup(int(rank), int(count)),
        device=task.device,
        meeting=GroupPart.from_json(part[0]).meeting if part else None,
    ) as process_group:
        run_rank(task, process_group)
    exit_without_cleanup()
