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
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_waiting: dict[Path, subprocess.Popen[bytes]] = {}
"""By the folder for locks it was started for."""
RANK_PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.workers.rank import main; main()"
)

WAITING_PROGRAM = PROGRAM.replace("main()", "import sys; sys.stdin.readline() and main()")

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""glibc keeps the memory of one batch for the next: a tenth of a training step on a CPU."""


def spawned(program: str, locks: Path, gpu: int | None) -> subprocess.Popen[bytes]:
    """A new worker process; its input and output are pipes.

    Parameters
    ----------
    program : str
        What it runs, as Python text, with this process's id and `locks` as arguments.
    locks : Path
        Folder for the locks of `Quiet`.
    gpu : int or None
        The only GPU it sees; None: what this process sees.
    """
    return subprocess.Popen(
        [sys.executable, "-c", program, str(os.getpid()), str(locks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(gpu),
    )


@contextmanager
def standing_by(run: Path) -> Iterator[None]:
    """Start one worker for the run folder `run` before anybody has work for it.

    Importing torch takes it seconds, as it does this process. It opens and writes no file until
    `taken`; one that nobody takes is killed when the block ends. None is started for a run that
    has its net, nor where there may be a GPU: which one it shall see is not known yet.
    """
    if (run / "models" / "best").exists() or any(map(os.path.exists, _GPU_FILES)):
        yield
        return
    locks = run / "checkpoints"
    key = locks.resolve()
    _waiting[key] = spawned(WAITING_PROGRAM, locks, None)
    try:
        yield
    finally:
        left = _waiting.pop(key, None)
        if left is not None:
            _ended(left)


def taken(locks: Path) -> subprocess.Popen[bytes] | None:
    """The process that stood by for `locks`, told to begin; None if there is none that lives."""
    process = _waiting.pop(locks.resolve(), None)
    if process is None:
        return None
    assert process.stdin is not None
    if process.poll() is None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"\n")
            process.stdin.flush()
            return process
    _ended(process)
    return None


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


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
    process = spawned(RANK_PROGRAM, meeting, _gpu(process_group))
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
