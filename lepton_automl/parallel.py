"""Parallel: one training in several processes, each with its share of every batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

LEAST_SHARE = 16
"""Pictures of a batch each process gets at least; batch normalisation sees no others."""
EFFICIENCY = 0.6
"""Of so many times the speed of one process (benchmarks/README.md, "One net, two processes")."""


@dataclass(frozen=True)
class Ranks:
    """Which of the processes of one training this is."""

    rank: int = 0
    count: int = 1

    def share(self, size: int) -> slice:
        """The places in a batch of `size` pictures that are this process's."""
        ends = [size * number // self.count for number in range(self.count + 1)]
        return slice(ends[self.rank], ends[self.rank + 1])

    def wrapped(self, network: nn.Module) -> nn.Module:
        """What is trained in place of `network`, so that all processes take equal steps.

        Each keeps its own running statistics, which are measured anew at the end: to share them at
        every step takes a small net longer than the step.
        """
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        own = None if device.type == "cpu" else [device.index or 0]
        with warnings.catch_warnings():
            # The word that replaces it from torch 2.13 on is not known to 2.11.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(network, own, broadcast_buffers=False)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(value)
            value /= self.count
        return value


ALONE = Ranks()


def fitting(count: int, batch_size: int) -> int:
    """How many of `count` processes a batch is shared by."""
    return max(1, min(count, batch_size // LEAST_SHARE))


def gain(count: int) -> float:
    """How many times as fast as one process so many probably are."""
    return max(1.0, EFFICIENCY * count)


@contextmanager
def joined(meeting: str = "env://", ranks: Ranks | None = None) -> Iterator[Ranks]:
    """Inside, the processes of one training know each other.

    Parameters
    ----------
    meeting : str
        Where they meet, as `torch.distributed` takes it: `file:///...`; by default what `torchrun`
        put into the environment.
    ranks : Ranks, optional
        Which of them this is; by default what `torchrun` says. One alone needs nobody.
    """
    if ranks is None:
        known = os.environ
        ranks = Ranks(int(known.get("RANK", "0")), int(known.get("WORLD_SIZE", "1")))
    if ranks.count == 1:
        yield ranks
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # Nobody on another machine is let in.
    distributed.init_process_group(
        backend, init_method=meeting, rank=ranks.rank, world_size=ranks.count
    )
    try:
        yield ranks
        distributed.barrier()  # Who leaves while others still talk makes them fail.
    finally:
        distributed.destroy_process_group()


def leave() -> NoReturn:
    """End a process that has done its share, without the libraries' own farewell.

    In it threads of gloo now and then end the process with SIGABRT, though all work is done. What
    was printed and not flushed is lost.
    """
    os._exit(0)
