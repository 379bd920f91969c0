"""A member of a team: a process that does its share of a task and says nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lepton_automl.search.workers.task import Task, run_share
from lepton_automl.training.distributed import (
    ProcessGroup,
    exit_without_cleanup,
    init_process_group,
)

OUTPUT, ERRORS = 1, 2
"""File descriptors every process starts with."""


def main() -> None:
    """Read who it is and the task, a line each; the second argument is where the team meets."""
    os.dup2(ERRORS, OUTPUT)  # Nobody reads what a library prints.
    torch.set_num_threads(1)
    rank, count = map(int, sys.stdin.readline().split())
    task = Task.from_json(sys.stdin.readline())
    with init_process_group(Path(sys.argv[2]).as_uri(), ProcessGroup(rank, count)) as process_group:
        run_share(task, process_group)
    exit_without_cleanup()
