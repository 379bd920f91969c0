"""The file of `--hosts`: which machines train, how they are reached, and what they have."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.core import untrusted_files
from lepton_automl.core.plugins import unknown_name
from lepton_automl.errors import ConfigError

_FIX = 'write [host.NAME] with command = ["ssh", "NAME"], see docs/distributed.md'
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
_MAX_JOBS = 1024
_MAX_PATIENCE = 86_400.0


@dataclass(frozen=True)
class HostSpec:
    """One host of the file."""

    name: str
    command: tuple[str, ...] = ()
    """Runs a program there, such as `ssh gpu1`; the words of the program follow. Empty: here."""
    python: str = "python3"
    """The interpreter there that has lepton."""
    jobs: int | None = None
    """Tasks at the same time; None: one a core, or a GPU."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:0`."""
    shared: bool = False
    """Whether it sees the run folder and the data under the same paths."""
    cache: str = ""
    """Folder there for copies of the data; empty: that of the user."""
    patience: float = 20.0
    """Seconds of silence after which it counts as lost."""
    local: bool = False
    """Whether it is this machine, so that its workers pause while a latency is measured."""
    measures: bool = False
    """Whether latencies are measured on it, at most one; without one on this machine."""
    group_address: str = ""
    """Its IPv4 address, where others reach it to train one net together; empty: they do not."""


@dataclass(frozen=True)
class HostsFile:
    """Content of the file."""

    hosts: Mapping[str, HostSpec]
    finals: str = ""
    """Name of a host whose kind of arithmetic trains the finalists; empty: the fastest kind."""


def read_hosts(path: Path) -> HostsFile:
    """Read and check the file.

    Raises
    ------
    ConfigError
        If it is missing, or anything in it is wrong.
    """
    document = untrusted_files.read_toml(path, fix=_FIX, error=ConfigError)
    _check_known(document, ["host", "finals"], f"key of {path}")
    tables = document.get("host")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path} names no host", fix=_FIX)
    hosts = {name: _host(path, name, table) for name, table in tables.items()}
    measuring = [name for name, spec in hosts.items() if spec.measures]
    if len(measuring) > 1:
        raise ConfigError(
            f"{path}: measures is true for {' and '.join(measuring)}: latencies of two machines "
            "cannot be compared",
            fix="leave it at the one that is like the machine where the file will run",
        )
    finals = document.get("finals", "")
    if not isinstance(finals, str):
        raise ConfigError(
            f"{path}: finals is {finals!r:.60}, the rule is the name of a host",
            fix="correct it, or leave it out",
        )
    if finals and finals not in hosts:
        raise unknown_name(finals, sorted(hosts), f"host of {path}, finals names one")
    return HostsFile(hosts, finals)


def _check_known(given: Mapping[str, Any], known: list[str], kind: str) -> None:
    for name in given:
        if name not in known:
            raise unknown_name(name, known, kind)


_RULES: Mapping[str, str] = {
    "command": "a list of words",
    "python": "a program, such as /opt/venv/bin/python",
    "jobs": f"1 to {_MAX_JOBS}",
    "device": "auto, cpu, cuda or cuda:N",
    "shared": "true or false",
    "cache": "a folder",
    "patience": f"1 to {_MAX_PATIENCE:.0f} seconds",
    "local": "true or false",
    "measures": "true or false",
    "group_address": "an IPv4 address of the host, such as 10.0.0.5",
}


def _host(path: Path, name: str, table: Any) -> HostSpec:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: host.{name} is not a table", fix=_FIX)
    known = [item.name for item in dataclasses.fields(HostSpec) if item.name != "name"]
    _check_known(table, known, f"key of host {name}")
    for key, value in table.items():
        if not _is_legal(key, value):
            raise ConfigError(
                f"{path}: {key} of host {name} is {value!r:.60}, the rule is {_RULES[key]}",
                fix="correct it, or leave it out" if key != "command" else _FIX,
            )
    spec = HostSpec(name, **{**table, "command": tuple(table.get("command", ()))})
    if spec.local == bool(spec.command):
        rule = "a command, or local = true for this machine; never both"
        raise ConfigError(f"{path}: host {name} needs {rule}", fix=_FIX)
    return spec


def _is_legal(key: str, value: Any) -> bool:
    match key:
        case "command":
            is_list = isinstance(value, list) and bool(value)
            return is_list and all(isinstance(word, str) and word for word in value)
        case "jobs":
            return type(value) is int and 1 <= value <= _MAX_JOBS
        case "patience":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and 1 <= value <= _MAX_PATIENCE
        case "shared" | "local" | "measures":
            return isinstance(value, bool)
        case "group_address":
            return isinstance(value, str) and _is_address(value)
        case "device":
            return isinstance(value, str) and bool(_DEVICE.fullmatch(value))
    return isinstance(value, str) and bool(value)


def _is_address(text: str) -> bool:
    """Whether it is an IPv4 address of one machine."""
    with contextlib.suppress(ValueError):
        address = ipaddress.IPv4Address(text)
        return not (address.is_unspecified or address.is_multicast or address.is_reserved)
    return False
