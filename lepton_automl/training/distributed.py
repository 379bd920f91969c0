"""Data-parallel training of one model in several processes (PyTorch DDP)."""

from __future__ import annotations

import ctypes
import datetime
import fcntl
import ipaddress
import os
import socket
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore
from torch.nn.parallel import DistributedDataParallel

from lepton_automl.errors import ConfigError

MIN_SAMPLES_PER_PROCESS = 16
"""Samples of a batch that each process gets at least: its batch normalisation sees no others."""
_SCALING_EFFICIENCY = 0.6
"""Expected speed-up per process; docs/decisions.md, data-parallel training."""
_MEETING_SECONDS = 300.0
"""Processes of several machines that have not met after so long give up."""
_SIOCGIFADDR = 0x8915
"""Linux, netdevice(7): the first IPv4 address of a network interface."""
_INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable with the name of the interface that gloo listens and connects on."""


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

    def broadcast_bytes(self, content: bytes) -> bytes:
        """The `content` of rank 0, in every process."""
        if self.world_size == 1:
            return content
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        size = torch.tensor([len(content)], device=device)
        distributed.broadcast(size, src=0)
        if not size.item():
            return b""
        found = torch.zeros(int(size), dtype=torch.uint8, device=device)
        if not self.rank:
            found.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(found, src=0)
        return found.cpu().numpy().tobytes()


SINGLE_PROCESS = ProcessGroup()


@dataclass(frozen=True)
class Meeting:
    """Where the processes of several machines meet: PyTorch's TCP store, which rank 0 serves.

    Neither the store nor gloo encrypts anything or asks who connects.
    """

    own_address: str
    """IPv4 address of this machine that the others reach."""
    address: str
    """That of rank 0."""
    port: int
    """Of the store."""
    token: str
    """Before all keys of the store; a group with another one is not met by mistake."""

    def connect(self, listener: socket.socket | None) -> PrefixStore:
        """Connect to the store; `listener`: the socket of the store, of rank 0 only."""
        # PyTorch closes the socket.
        handle = None if listener is None else listener.detach()
        store = TCPStore(
            self.address,
            self.port,
            is_master=handle is not None,
            timeout=datetime.timedelta(seconds=_MEETING_SECONDS),
            wait_for_workers=False,
            master_listen_fd=handle,
        )
        return PrefixStore(self.token, store)


def interface_of(address: str) -> str:
    """Name of the network interface of this machine whose first IPv4 address is `address`.

    Raises
    ------
    ConfigError
        If there is none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # It has none.
                continue
            if str(ipaddress.IPv4Address(found[20:24])) == address:
                return name
    raise ConfigError(
        f"group_address {address} is the first IPv4 address of no network interface here",
        fix="name the address that `ip -4 address` shows on that host, or leave it out",
    )


def usable_processes(processes: int, batch_size: int) -> int:
    """Number of processes, at most `processes`, that get enough samples of a batch each."""
    return max(1, min(processes, batch_size // MIN_SAMPLES_PER_PROCESS))


def expected_speedup(processes: int) -> float:
    """Expected speed relative to one process, at least 1."""
    return max(1.0, _SCALING_EFFICIENCY * processes)


@contextmanager
def init_process_group(
    init_method: str = "env://",
    process_group: ProcessGroup | None = None,
    *,
    device: str = "",
    meeting: Meeting | None = None,
    listener: socket.socket | None = None,
) -> Iterator[ProcessGroup]:
    """Connect the processes of one training; disconnect them on exit.

    Parameters
    ----------
    init_method : str
        As `torch.distributed` takes it, such as `file:///...`; by default the environment variables
        that `torchrun` sets.
    process_group : ProcessGroup, optional
        This process in the group; by default from the environment variables of `torchrun`.
    device : str
        What they compute on, such as `cpu` or `cuda`; empty: `cuda` where there is one.
    meeting : Meeting, optional
        Of processes on several machines, which compute on CPUs; in place of `init_method`.
    listener : socket, optional
        Listens at the port of `meeting`; of rank 0 only, and closed with the group.
    """
    if process_group is None:
        env = os.environ
        process_group = ProcessGroup(int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1")))
    if process_group.world_size == 1:
        yield process_group
        return
    rank, world_size = process_group.rank, process_group.world_size
    if meeting is None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
        os.environ.setdefault(_INTERFACE, "lo")  # No connections from other machines.
        distributed.init_process_group(
            backend, init_method=init_method, rank=rank, world_size=world_size
        )
    else:
        with _gloo_on(interface_of(meeting.own_address)):
            store = meeting.connect(listener)
            distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        yield process_group
        distributed.barrier()  # A process that leaves early makes collectives of the others fail.
    except BaseException:
        _never_free(distributed.group.WORLD)
        raise
    finally:
        distributed.destroy_process_group()


@contextmanager
def _gloo_on(interface: str) -> Iterator[None]:
    """Let gloo use a network interface; groups that this process joins later use their own."""
    before = os.environ.get(_INTERFACE)
    os.environ[_INTERFACE] = interface
    try:
        yield
    finally:
        del os.environ[_INTERFACE]
        if before is not None:
            os.environ[_INTERFACE] = before


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
