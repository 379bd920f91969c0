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

from lepton_automl.core import files, held_folders
from lepton_automl.core.subprocesses import start_child
from lepton_automl.training.distributed import SINGLE_PROCESS, ProcessGroup, init_process_group

WORKER_PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.workers.worker import main; main()"
)
RANK_PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.workers.rank import main; main()"
)

MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""glibc keeps the memory of one batch for the next, which saves a tenth of a training step."""


def launch(program: str, locks: Path, gpu: int | None) -> subprocess.Popen[bytes]:
    """Start a worker process; its input and output are pipes.

    Parameters
    ----------
    program : str
        Python code that the process runs; its arguments are this process's id, `locks` and the
        held folders (`core.held_folders`).
    locks : Path
        Folder of the files of `MeasurementLock`.
    gpu : int or None
        The only GPU it sees; None: those that this process sees.
    """
    # One thread each: two threads of a small net are much slower where a core is shared.
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **MALLOC_SETTINGS}
    if gpu is not None:
        settings["CUDA_VISIBLE_DEVICES"] = str(gpu)
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    return start_child(
        [sys.executable, "-c", program, str(os.getpid()), str(locks), held_folders.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | settings | {"PYTHONPATH": path},
    )


@contextmanager
def started_process_group(task: str, count: int, folder: Path) -> Iterator[ProcessGroup]:
    """Start a process group that runs `task`, with this process as rank 0; ends it afterwards.

    Parameters
    ----------
    task : str
        The task as JSON, passed to the other ranks.
    count : int
        Number of processes.
    folder : Path
        For the rendezvous file.
    """
    if count == 1:
        yield SINGLE_PROCESS
        return
    files.make_folder(folder)
    rendezvous = folder.resolve() / f"rendezvous.{os.getpid()}"
    rendezvous.unlink(missing_ok=True)
    others = [_start_rank(task, ProcessGroup(rank, count), rendezvous) for rank in range(1, count)]
    try:
        with init_process_group(rendezvous.as_uri(), ProcessGroup(0, count)) as process_group:
            yield process_group
    finally:
        for process in others:
            process.kill()
            process.communicate()
        rendezvous.unlink(missing_ok=True)


def _start_rank(
    task: str, process_group: ProcessGroup, rendezvous: Path
) -> subprocess.Popen[bytes]:
    process = launch(RANK_PROGRAM, rendezvous, _gpu(process_group))
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{process_group.rank} {process_group.world_size}\n{task}\n".encode())
        process.stdin.flush()
    return process


def _gpu(process_group: ProcessGroup) -> int | None:
    """The GPU of another rank, next to that of this process; None without GPUs."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not torch.cuda.is_available() or not own.isdigit():
        return None
    count = process_group.world_size
    first = int(own) // count * count
    return first + (int(own) + process_group.rank) % count
