"""A team: a worker and the processes it starts train one net together."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lepton_automl import durable
from lepton_automl.parallel import SINGLE_PROCESS, ProcessGroup, init_process_group
from lepton_automl.search.spawn import spawned

PROGRAM = (
    "from lepton_automl.lifeline import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.member import main; main()"
)


@contextmanager
def assembled(task: str, count: int, folder: Path) -> Iterator[ProcessGroup]:
    """Inside, `count` processes run `task` with this one as the first; others end with it.

    Parameters
    ----------
    task : str
        JSON of the task, as the others need it.
    count : int
        Processes in all.
    folder : Path
        Where they meet.
    """
    if count == 1:
        yield SINGLE_PROCESS
        return
    with durable.wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    meeting = folder.resolve() / f"meeting.{os.getpid()}"
    meeting.unlink(missing_ok=True)
    others = [_other(task, ProcessGroup(rank, count), meeting) for rank in range(1, count)]
    try:
        with init_process_group(meeting.as_uri(), ProcessGroup(0, count)) as process_group:
            yield process_group
    finally:
        for process in others:
            process.kill()
            process.communicate()
        meeting.unlink(missing_ok=True)


def _other(task: str, process_group: ProcessGroup, meeting: Path) -> subprocess.Popen[bytes]:
    process = spawned(PROGRAM, meeting, _gpu(process_group))
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{process_group.rank} {process_group.world_size}\n{task}\n".encode())
        process.stdin.flush()
    return process


def _gpu(process_group: ProcessGroup) -> int | None:
    """The GPU of another process: this one's neighbour; None on a processor."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not torch.cuda.is_available() or not own.isdigit():
        return None
    count = process_group.world_size
    first = int(own) // count * count
    return first + (int(own) + process_group.rank) % count
