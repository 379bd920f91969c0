"""The program of the child process of `models.format_session`: opens files and runs them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.call_times import shortest_call
from lepton_automl.core.limited_process import Message, serve
from lepton_automl.errors import DataError
from lepton_automl.models import formats
from lepton_automl.models.formats import ONNX, Session
from lepton_automl.models.untrusted.onnx_graph import problem_of

_WARM_UP = 3


@dataclass
class Server:
    """Answers requests about the files of one format, which it holds open."""

    name: str = ""
    folder: Path = Path()
    session: Session | None = None

    def answer(self, request: Message) -> Message:
        """Open files, classify samples, or measure the time of one."""
        fields = request.fields
        if "format" in fields:
            self.name, self.folder = fields["format"], Path(fields["folder"])
            kind = formats.load(self.name)
            self.session = kind.session(self.folder)
            sizes = dataclasses.asdict(kind.sizes(self.folder))
            return Message({"sizes": sizes, "labels": self.session.labels()})
        samples = np.frombuffer(request.payload, fields["dtype"]).reshape(fields["shape"])
        if "rounds" in fields:
            return Message(self._times(samples, fields["rounds"], fields["seconds"]))
        return Message({}, self._predict(samples, fields["classes"]).tobytes())

    def _predict(self, samples: NDArray[Any], classes: int) -> NDArray[np.float32]:
        assert self.session is not None, "files are opened first"
        found = self.session.predict(samples)
        problem = problem_of(found, len(samples), classes)
        if problem:
            raise DataError(
                f"{self.folder / formats.load(self.name).main} gives no probabilities: {problem}",
                fix=f"make the files again: lepton export RUN --format {self.name}",
            )
        return np.ascontiguousarray(found)

    def _times(self, sample: NDArray[Any], rounds: int, seconds: float) -> dict[str, Any]:
        assert self.session is not None, "files are opened first"
        own = self.session.prepared(sample)
        other = formats.load(ONNX).session(self.folder).prepared(sample)
        for _ in range(_WARM_UP):
            own()
            other()
        times: dict[str, list[float]] = {"own": [], "onnx": []}
        for _ in range(rounds):
            times["own"].append(shortest_call(own, seconds / rounds))
            times["onnx"].append(shortest_call(other, seconds / rounds))
        return times


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    serve(Server().answer)
