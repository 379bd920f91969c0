"""Start worker processes, alone or as a process group."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from lepton_automl.core import files, held_folders
from lepton_automl.core.subprocesses import start_child
from lepton_automl.errors import MachineError
from lepton_automl.training.distributed import (
    SINGLE_PROCESS,
    Meeting,
    ProcessGroup,
    init_process_group,
)

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


@dataclass(frozen=True)
class GroupPart:
    """The processes of one host in a process group over several hosts."""

    first: int
    """Rank of the first one; they have consecutive ranks."""
    count: int
    """Their number."""
    meeting: Meeting
    """On the host of rank 0 its port is 0: any free one is taken."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        document = json.loads(text)
        return cls(document["first"], document["count"], Meeting(**document["meeting"]))


@contextmanager
def started_process_group(
    task: str, count: int, folder: Path, device: str
) -> Iterator[ProcessGroup]:
    """Start a process group that runs `task`, with this process as rank 0; ends it afterwards.

    Parameters
    ----------
    task : str
        The task as JSON, passed to the other ranks.
    count : int
        Number of processes.
    folder : Path
        For the rendezvous file.
    device : str
        What they compute on, as `Task.device`.
    """
    if count == 1:
        yield SINGLE_PROCESS
        return
    files.make_folder(folder)
    rendezvous = folder.resolve() / f"rendezvous.{os.getpid()}"
    rendezvous.unlink(missing_ok=True)
    others = [_start_rank(task, ProcessGroup(rank, count), rendezvous) for rank in range(1, count)]
    try:
        with init_process_group(
            rendezvous.as_uri(), ProcessGroup(0, count), device=device
        ) as process_group:
            yield process_group
    finally:
        _end(others)
        rendezvous.unlink(missing_ok=True)


@contextmanager
def started_group_part(
    task: str, part: GroupPart, world_size: int, on_listen: Callable[[int], None]
) -> Iterator[ProcessGroup]:
    """Start the processes of this host in a group over several; ends them afterwards.

    This process is the first one of the part.

    Parameters
    ----------
    task : str
        The task as JSON, passed to the other ranks.
    part : GroupPart
        The part of this host.
    world_size : int
        Number of processes on all hosts.
    on_listen : callable
        Called on the host of rank 0 with the port at which the others are awaited.

    Raises
    ------
    MachineError
        If no port can be opened.
    """
    listener = None
    if part.first == 0:
        try:
            listener = socket.create_server((part.meeting.own_address, 0))
        except OSError as error:
            raise MachineError(
                f"no port can be opened at {part.meeting.own_address}: {error.strerror}",
                fix="correct group_address of the host, or leave it out",
            ) from error
        port = listener.getsockname()[1]
        part = dataclasses.replace(part, meeting=dataclasses.replace(part.meeting, port=port))
        on_listen(port)
    ranks = [ProcessGroup(rank, world_size) for rank in range(part.first, part.first + part.count)]
    others = [_start_rank(task, rank, Path(), part) for rank in ranks[1:]]
    try:
        with init_process_group(
            process_group=ranks[0], meeting=part.meeting, listener=listener
        ) as process_group:
            yield process_group
    finally:
        _end(others)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def _start_rank(
    task: str, process_group: ProcessGroup, rendezvous: Path, part: GroupPart | None = None
) -> subprocess.Popen[bytes]:
    process = launch(RANK_PROGRAM, rendezvous, _gpu(process_group))
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        place = f"{process_group.rank} {process_group.world_size}"
        place += "" if part is None else f" {part.to_json()}"
        process.stdin.write(f"{place}\n{task}\n".encode())
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
