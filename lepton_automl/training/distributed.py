"""Data-parallel training of one model in several processes (PyTorch DDP)."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

MIN_SAMPLES_PER_PROCESS = 16
"""Samples of a batch that each process gets at least: its batch normalisation sees no others."""
_SCALING_EFFICIENCY = 0.6
"""Expected speed-up per process; docs/decisions.md, data-parallel training."""


@dataclass(frozen=True)
class ProcessGroup:
    """Rank of this process and number of processes in one data-parallel training."""

    rank: int = 0
    world_size: int = 1

    def local_slice(self, batch_size: int) -> slice:
        """The positions in a batch of `batch_size` samples that this process trains on."""
        ends = [batch_size * rank // self.world_size for rank in range(self.world_size + 1)]
        return slice(ends[self.rank], ends[self.rank + 1])

    def wrap(self, network: nn.Module) -> nn.Module:
        """`network` in DistributedDataParallel; itself in a group of one process.

        Each process keeps its own running statistics of batch normalisation, which are recomputed
        after the training: to broadcast them at every step takes longer than a step of a small net.
        """
        if self.world_size == 1:
            return network
        device = next(network.parameters()).device
        device_ids = None if device.type == "cpu" else [device.index or 0]
        with warnings.catch_warnings():
            # The argument that replaces it from torch 2.13 on is not known to 2.11.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(network, device_ids, broadcast_buffers=False)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(value)
            value /= self.world_size
        return value


SINGLE_PROCESS = ProcessGroup()


def usable_processes(processes: int, batch_size: int) -> int:
    """Number of processes, at most `processes`, that get enough samples of a batch each."""
    return max(1, min(processes, batch_size // MIN_SAMPLES_PER_PROCESS))


def expected_speedup(processes: int) -> float:
    """Expected speed relative to one process, at least 1."""
    return max(1.0, _SCALING_EFFICIENCY * processes)


@contextmanager
def init_process_group(
    init_method: str = "env://", process_group: ProcessGroup | None = None
) -> Iterator[ProcessGroup]:
    """Connect the processes of one training; disconnect them on exit.

    Parameters
    ----------
    init_method : str
        As `torch.distributed` takes it, such as `file:///...`; by default the environment variables
        that `torchrun` sets.
    process_group : ProcessGroup, optional
        This process in the group; by default from the environment variables of `torchrun`.
    """
    if process_group is None:
        env = os.environ
        process_group = ProcessGroup(int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1")))
    if process_group.world_size == 1:
        yield process_group
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # No connections from other machines.
    distributed.init_process_group(
        backend,
        init_method=init_method,
        rank=process_group.rank,
        world_size=process_group.world_size,
    )
    try:
        yield process_group
        distributed.barrier()  # A process that leaves early makes collectives of the others fail.
    except BaseException:
        _never_free(distributed.group.WORLD)
        raise
    finally:
        distributed.destroy_process_group()


def _never_free(group: object) -> None:
    """Keep a group whose collective has failed until this process ends.

    Its destructor waits for a thread that may wait for the lost process for half an hour (gloo).
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def exit_without_cleanup() -> NoReturn:
    """End this process at once, without destructors and without flushing its output.

    During cleanup gloo's threads sometimes end the process with SIGABRT although its work is done.
    """
    os._exit(0)
