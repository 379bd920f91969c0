"""How worker processes are started, one of them while the command itself still imports torch."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = (
    "from lepton_automl.lifeline import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.worker import main; main()"
)
WAITING_PROGRAM = PROGRAM.replace("main()", "import sys; sys.stdin.readline() and main()")
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""glibc keeps the memory of one batch for the next: a tenth of a training step on a CPU."""
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

_waiting: dict[Path, subprocess.Popen[bytes]] = {}
"""By the folder for locks it was started for."""


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
