"""Executor over the hosts of a file: commands such as `ssh gpu1`, and messages over their pipes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lepton_automl.core.events import Emit, silent
from lepton_automl.errors import LeptonError
from lepton_automl.search.executors.host_connection import Host
from lepton_automl.search.executors.hosts_file import HostsFile, read_hosts
from lepton_automl.search.executors.remote import RemoteExecutor

_REREAD_SECONDS = 2.0
"""The file of hosts is looked at so often."""


class HostsExecutor(RemoteExecutor):
    """Runs tasks on the hosts of a file, which is read again while it works.

    Parameters
    ----------
    path : Path
        The file.
    locks : Path
        Folder of the measurement lock of this machine.
    emit : callable
        Receives events about hosts that join, fail and leave, and about lost workers.
    program : tuple of str, optional
        What runs on a host, for tests.

    Raises
    ------
    ConfigError
        If the file is wrong.
    MachineError
        If no host can be used.
    """

    def __init__(
        self,
        path: Path,
        locks: Path,
        *,
        emit: Emit = silent,
        program: tuple[str, ...] | None = None,
    ) -> None:
        self._path, self._program = path, program
        self._file = read_hosts(path)
        super().__init__(locks, emit)

    @property
    def _place(self) -> str:
        return str(self._path)

    @property
    def _finals(self) -> str:
        return self._file.finals

    @property
    def _finals_option(self) -> str:
        return f"finals in {self._path.name} (--hosts)"

    async def _find_hosts(self, serving: dict[str, asyncio.Task[None]]) -> None:
        self._apply(self._file, serving)
        state = _state(self._path)
        while True:
            await asyncio.sleep(_REREAD_SECONDS)
            now = _state(self._path)
            if now == state:
                continue
            state = now
            try:
                found = read_hosts(self._path)
            except LeptonError as error:
                self._say(f"hosts stay as they are: {error.what}")
            else:
                self._file = found
                self._apply(found, serving)

    def _apply(self, file: HostsFile, serving: dict[str, asyncio.Task[None]]) -> None:
        """Close hosts that are not in the file any more or differ, and open those that are new."""
        with self._changed:
            specs = {name: host.spec for name, host in self._hosts.items()}
            for name in [name for name in specs if file.hosts.get(name) != specs[name]]:
                if name not in file.hosts:
                    self._say(f"host {name} was taken out of {self._path.name}")
                self._hosts.pop(name).close()
            for name, spec in file.hosts.items():
                if name not in self._hosts:
                    host = Host(spec, self._catalog, self, self._locks, self._program)
                    self._hosts[name] = host
                    serving[f"{name} {id(host)}"] = asyncio.ensure_future(host.serve())


def _state(path: Path) -> tuple[int, ...] | None:
    """Numbers that change with every change of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
