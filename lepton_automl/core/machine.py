"""Describe the machine that measurements are taken on: processor, features, runtime."""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

REPORTED_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
    "amx_bf16",
)
"""Processor features that choose kernels, as Linux names them: those for int8 files, and the one
that decides the number format of trainings."""


@dataclass(frozen=True)
class Machine:
    """Processor, operating system and version of ONNX Runtime."""

    cpu: str
    """Model name, or the architecture where the system does not report it."""
    flags: tuple[str, ...]
    """Features in `REPORTED_FLAGS` that the processor has."""
    cores: int
    onnxruntime: str
    """Version of ONNX Runtime."""
    system: str

    def __str__(self) -> str:
        flags = ", ".join(self.flags) or "no int8 features"
        return f"{self.cpu} ({flags}), ONNX Runtime {self.onnxruntime}, {self.system}"


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Describe the machine that this process runs on.

    Parameters
    ----------
    cpuinfo : Path
        Linux's list of processors; on other systems it is missing and no features are known.
    """
    return Machine(
        cpu=_fields(cpuinfo).get("model name") or platform.processor() or platform.machine(),
        flags=processor_flags(cpuinfo),
        cores=os.cpu_count() or 1,
        onnxruntime=str(importlib.import_module("onnxruntime").__version__),
        system=f"{platform.system()} {platform.machine()}",
    )


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Features in `REPORTED_FLAGS` that the processor has; does not load ONNX Runtime."""
    fields = _fields(cpuinfo)
    has = set(fields.get("flags", fields.get("Features", "")).split())
    return tuple(flag for flag in REPORTED_FLAGS if flag in has)


def _fields(cpuinfo: Path) -> dict[str, str]:
    """What Linux says of the first processor; empty on other systems."""
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
