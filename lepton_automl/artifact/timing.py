"""Measure files beside each other, each open in a child process of its own with limits.

The processes take turns: in every round each is called for a while, so that what disturbs the
machine for seconds disturbs all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_automl.core.field_types import check_types
from lepton_automl.core.limited_process import LimitedProcess, ProcessLimits
from lepton_automl.cost.latency import relative_latency
from lepton_automl.errors import DataError
from lepton_automl.models import formats
from lepton_automl.models.formats import ONNX
from lepton_automl.models.untrusted.session import open_limits, run_limits

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.artifact.timing_server import main; main()"
)
ROUNDS = 20
_FIX = "give an ONNX file that runs in ONNX Runtime"
_LEAST_SECONDS = 3.0
"""Processor time of a round beside that which is asked for: a single call may be long."""


@dataclass(frozen=True)
class TimedFile:
    """A file to be measured."""

    path: Path
    name: str = ONNX
    """Of its format."""
    folder: Path = Path()
    """The artifact that files of further formats belong to."""
    content: bytes = b""
    """Of an ONNX file."""


@dataclass(frozen=True)
class FileTiming:
    """What one file takes with a number of threads and a batch."""

    path: str
    format: str
    threads: int
    batch: int
    not_run: str = ""
    """Why there are no figures; empty if there are."""
    p50_us: float = 0.0
    """Median time of a call, microseconds."""
    p95_us: float = 0.0
    p99_us: float = 0.0
    calls: int = 0
    ratio: float | None = None
    """Shortest time of a call over that of the first file, median over the rounds; None of a file
    that was not run, or where the first was not."""
    ratio_interval: tuple[float, float] | None = None
    """95 % interval of that median."""
    opening_ms: float = 0.0
    """From the content of the file to a session, in a process that has loaded the runtime."""
    first_ms: float = 0.0
    """The first call."""
    memory_bytes: int | None = None
    """Resident memory that opening and the first call added at most; None where not known."""


def time_files(
    files: Sequence[TimedFile], *, threads: int = 1, batch: int = 1, seconds: float = 1.0
) -> list[FileTiming]:
    """Measure files in rounds that take turns.

    Parameters
    ----------
    files : sequence of TimedFile
        The first is what others are compared with.
    threads : int
        Of ONNX Runtime. Files of other formats have one and are left out with more.
    batch : int
        Samples of a call; those of other formats are called with one and left out with more.
    seconds : float
        For each file, over all rounds.

    Raises
    ------
    MachineError
        If a process cannot be started.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_Opened(file, threads, batch)) for file in files]
        for _ in range(ROUNDS):
            for each in opened:
                each.run(seconds / ROUNDS)
    first = opened[0].shortest if opened and not opened[0].not_run else None
    return [each.timing(first) for each in opened]


class _Opened:
    """A file that is open in its process, and the times of its calls."""

    def __init__(self, file: TimedFile, threads: int, batch: int) -> None:
        self._file, self._threads, self._batch = file, threads, batch
        self.shortest: list[float] = []
        self.not_run, self._times = "", list[float]()
        self._begun: dict[str, Any] = {}
        self._values = 0
        self._process = LimitedProcess(PROGRAM)
        try:
            self.not_run = self._lacks() or self._open()
        except BaseException:
            self._process.close()
            raise

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def _lacks(self) -> str:
        """Why the file is not opened at all."""
        if self._file.name == ONNX:
            return ""
        if self._threads > 1 or self._batch > 1:
            return "one thread and one sample only"
        return formats.load(self._file.name).missing()

    def _open(self) -> str:
        file, size = self._file, len(self._file.content)
        folder = file.path.parent if file.name == ONNX else file.folder
        place = os.path.abspath(folder)  # noqa: PTH100  Links stay, unlike in Path.resolve.
        fields = {"source": str(file.path), "folder": place, "format": file.name}
        limits = open_limits(size) if file.name == ONNX else formats.load(file.name).session_limits
        try:
            found = self._call(fields | {"threads": self._threads}, limits)
            self._values = int(found["values"]) * self._batch
            self._begun = self._call({"batch": self._batch}, self._limits(0))
        except DataError as error:
            return error.what
        return ""

    def run(self, seconds: float) -> None:
        """Call it for some time."""
        if self.not_run:
            return
        try:
            times = self._call({"seconds": seconds}, self._limits(seconds))["times"]
        except DataError as error:
            self.not_run = error.what
            return
        self._times += map(float, times)
        self.shortest.append(min(map(float, times)))

    def _limits(self, seconds: float) -> ProcessLimits:
        base = run_limits(len(self._file.content), self._values)
        cpu = 4 * base.processor_seconds + self._threads * seconds + _LEAST_SECONDS
        return ProcessLimits(base.memory_bytes, cpu, 60.0 + 10.0 * cpu)

    def _call(self, fields: dict[str, Any], limits: ProcessLimits) -> dict[str, Any]:
        content = self._file.content if "source" in fields else b""
        subject = str(self._file.path)
        return self._process.call(fields, content, subject=subject, fix=_FIX, limits=limits).fields

    def timing(self, first: Sequence[float] | None) -> FileTiming:
        """The figures, compared with the shortest times of another file in the same rounds."""
        known = str(self._file.path), self._file.name, self._threads, self._batch
        if self.not_run:
            return FileTiming(*known, not_run=self.not_run)
        ratio, interval = None, None
        if first is not None and len(first) == len(self.shortest):
            latency = relative_latency(self.shortest, list(first))
            ratio, interval = latency.ratio, (latency.ratio_low, latency.ratio_high)
        p50, p95, p99 = (1e6 * float(np.quantile(self._times, q)) for q in (0.5, 0.95, 0.99))
        found = FileTiming(
            *known,
            p50_us=p50,
            p95_us=p95,
            p99_us=p99,
            calls=len(self._times),
            ratio=ratio,
            ratio_interval=interval,
            opening_ms=1e3 * self._begun["opening"],
            first_ms=1e3 * self._begun["first"],
            memory_bytes=self._begun["memory"],
        )
        check_types(found)
        return found
