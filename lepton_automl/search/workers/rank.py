"""One rank of a process group: trains its part of every batch and returns no result."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lepton_automl.search.workers.task import Task, run_rank
from lepton_automl.training.distributed import (
    ProcessGroup,
    exit_without_cleanup,
    init_process_group,
)

_STDOUT, _STDERR = 1, 2


def main() -> None:
    """Read rank and task from standard input; the second argument is the rendezvous file."""
    os.dup2(_STDERR, _STDOUT)  # What a library prints must not fill a pipe that is never read.
    torch.set_num_threads(1)
    rank, count = map(int, sys.stdin.readline().split())
    task = Task.from_json(sys.stdin.readline())
    with init_process_group(Path(sys.argv[2]).as_uri(), ProcessGroup(rank, count)) as process_group:
        run_rank(task, process_group)
    exit_without_cleanup()
