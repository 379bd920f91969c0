"""Start worker processes, alone or as a process group."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lepton_automl.core import files
from lepton_automl.training.distributed import SINGLE_PROCESS, ProcessGroup, init_process_group

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.workers.worker import main; main()"
)
RANK_PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.workers.rank import main; main()"
)

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""glibc keeps the memory of one batch for the next: a tenth of a training step on a CPU."""


def launch(program: str, locks: Path, gpu: int | None) -> subprocess.Popen[bytes]:
    """A new worker process; its input and output are pipes.

    Parameters
    ----------
    program : str
        What it runs, as Python text, with this process's id and `locks` as arguments.
    locks : Path
        Folder for the locks of `MeasurementLock`.
    gpu : int or None
        The only GPU it sees; None: what this process sees.
    """
    return subprocess.Popen(
        [sys.executable, "-c", program, str(os.getpid()), str(locks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(gpu),
    )


def _environment(gpu: int | None) -> dict[str, str]:
    # One thread each: two threads of a small net collapse when a core is shared.
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **KEEPS_MEMORY}
    if gpu is not None:
        fixed["CUDA_VISIBLE_DEVICES"] = str(gpu)
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    return os.environ | fixed | {"PYTHONPATH": path}


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
    with files.wrap_os_errors(folder):
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
    process = launch(RANK_PROGRAM, meeting, _gpu(process_group))
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
