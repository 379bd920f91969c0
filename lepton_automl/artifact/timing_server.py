"""The program of the child process of `artifact.timing`: opens one file and calls it.

Files of formats that are compiled are opened only if they are what lepton writes from the ONNX file
of the same artifact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact import writer
from lepton_automl.artifact.format_files import code_refusal
from lepton_automl.artifact.manifest import GOLDEN
from lepton_automl.core.limited_process import Message, is_out_of_memory, serve
from lepton_automl.core.untrusted_files import is_of_machine
from lepton_automl.cost.kernels import random_feeds
from lepton_automl.errors import DataError, first_line
from lepton_automl.models import formats
from lepton_automl.models.formats import ONNX, Session
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.untrusted.onnx_graph import MALFORMED, WITH_ONNX_RUNTIME, parse
from lepton_automl.models.untrusted.session import extend_for_weights

_FIX = "check that it is a file that runs here"
_MOST_CALLS = 20_000
"""Of a round."""


@dataclass
class _Server:
    """Holds one file that is open."""

    session: Any = None
    feeds: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    call: Callable[[], object] = field(default=lambda: None)
    before: int = 0
    """Memory before it was opened, bytes."""
    opening: float = 0.0
    """Seconds."""

    def answer(self, request: Message) -> Message:
        """Open a file (`source`), run it the first time (`batch`), or for some time (`seconds`).

        Raises
        ------
        DataError
            If the file cannot be used.
        """
        fields = request.fields
        try:
            if "source" in fields:
                self._open(fields, request.payload)
                return Message({"values": sum(array.size for array in self.feeds.values())})
            if "batch" in fields:
                return Message(self._first(fields["batch"]))
            return Message({"times": _times(self.call, fields["seconds"])})
        except MALFORMED as error:
            if is_of_machine(error) or is_out_of_memory(error):
                raise
            raise DataError(f"it does not run here: {first_line(error)}", fix=_FIX) from error

    def _open(self, fields: dict[str, Any], content: bytes) -> None:
        source, folder, name = fields["source"], Path(fields["folder"]), fields["format"]
        if name == ONNX:
            model = parse(
                source, content, folder, on_weights=extend_for_weights, domains=WITH_ONNX_RUNTIME
            )
            content = model.SerializeToString()
            del model
        elif refused := code_refusal(folder, name):
            raise DataError(refused, fix=_FIX)
        _forget_peak()
        self.before, start = _memory("VmRSS"), time.perf_counter()
        if name == ONNX:
            self.session = open_session(content, threads=fields["threads"])
            self.feeds = random_feeds(self.session)
        else:
            self.session = formats.load(name).session(folder)
        self.opening = time.perf_counter() - start
        if name != ONNX:
            self.feeds = {"": writer.read_array(folder, GOLDEN)[:1]}

    def _first(self, batch: int) -> dict[str, Any]:
        """Run it the first time; what that took, and the memory that opening and it needed."""
        feeds = {name: np.repeat(array, batch, axis=0) for name, array in self.feeds.items()}
        if isinstance(self.session, Session):
            self.call = self.session.prepared(feeds[""])
        else:
            self.call = lambda: self.session.run(None, feeds)
        start = time.perf_counter()
        self.call()
        first, peak = time.perf_counter() - start, _memory("VmHWM")
        for _ in range(2):
            self.call()
        used = max(0, peak - self.before) if peak and self.before else None
        return {"opening": self.opening, "first": first, "memory": used}


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call in a time, at least one."""
    clock, found = time.perf_counter, list[float]()
    before = clock()
    end = before + seconds
    while len(found) < _MOST_CALLS:
        call()
        after = clock()
        found.append(after - before)
        if after >= end:
            break
        before = after
    return found


def _memory(name: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(found[0][1]) * 1024 if found else 0


def _forget_peak() -> None:
    """Let the peak of the memory start from now, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    serve(_Server().answer)
