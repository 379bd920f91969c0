"""Run the written files of a format in a child process with limits on memory and time.

As `models.untrusted.session` does it for ONNX files from outside. A process serves one session and
ends with it, because files of some formats are compiled and run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.files import real_path
from lepton_automl.core.limited_process import LimitedProcess, ProcessLimits
from lepton_automl.errors import DataError, MachineError
from lepton_automl.models import formats
from lepton_automl.models.formats import Sizes
from lepton_automl.models.untrusted.session import batch_of, run_limits

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.models.format_server import main; main()"
)
_FIX = "make the files again: lepton export RUN --format {name}"
_RUN_SECONDS = 60.0
"""Processor time of a batch, beside that of `run_limits`: an interpreter is slower than ONNX."""


class FormatSession:
    """Files of a format, open in a child process.

    Parameters
    ----------
    name : str
        Of the format.
    folder : Path
        The artifact.
    classes : int
        Of the net.
    program : str
        Of the child process, which answers as `models.format_server`.

    Raises
    ------
    MachineError
        If this machine lacks what runs the files, or the process cannot be started.
    DataError
        If the files cannot be used, exceed a limit or crash the process.
    """

    def __init__(self, name: str, folder: Path, classes: int, *, program: str = PROGRAM) -> None:
        kind = formats.load(name)
        lacks = kind.missing()
        if lacks:
            raise MachineError(
                f"{kind.main} cannot be run on this machine: {lacks}",
                fix="install it, or use model.int8.onnx",
            )
        self._classes, self._subject = classes, str(folder / kind.main)
        self._fix = _FIX.format(name=name)
        self._process = LimitedProcess(program)
        fields = {"format": name, "folder": str(real_path(folder))}
        try:
            answer, _ = self._call(fields, b"", kind.session_limits)
        except BaseException:
            self.close()
            raise
        self.sizes = Sizes(**answer["sizes"])
        """What the files take."""
        labels = answer["labels"]
        self.labels: tuple[str, ...] | None = None if labels is None else tuple(labels)
        """Class names that the files hold (`Session.labels`)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def predict(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, classes) of samples as written files read them, in batches."""
        size = batch_of(samples.shape[1:])
        parts = [
            self._batch(samples[start : start + size])
            for start in range(0, max(len(samples), 1), size)
        ]
        return np.concatenate(parts)

    def times(
        self, sample: NDArray[Any], *, rounds: int, seconds: float
    ) -> tuple[list[float], list[float]]:
        """Times of one sample (1, *shape) by the files and by `model.int8.onnx` beside them.

        Parameters
        ----------
        sample : array
            What both classify.
        rounds : int
            Blocks of calls; those of the two alternate.
        seconds : float
            Of each over all rounds.

        Returns
        -------
        tuple of list of float
            Shortest time of a call in each round, seconds: of the files, of ONNX Runtime.
        """
        fields = self._array(sample) | {"rounds": rounds, "seconds": seconds}
        answer, _ = self._call(fields, sample.tobytes(), _limits(sample, 20 * seconds))
        return answer["own"], answer["onnx"]

    def _batch(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        samples = np.ascontiguousarray(samples)
        limits = _limits(samples, _RUN_SECONDS)
        _, payload = self._call(self._array(samples), samples.tobytes(), limits)
        found = np.frombuffer(payload, np.float32)
        if found.size != len(samples) * self._classes:
            raise DataError(f"{self._subject}: its process gave a malformed answer", fix=self._fix)
        return found.reshape(len(samples), self._classes)

    def _array(self, samples: NDArray[Any]) -> dict[str, Any]:
        kind, shape = samples.dtype.name, list(samples.shape)
        return {"dtype": kind, "shape": shape, "classes": self._classes}

    def _call(
        self, fields: dict[str, Any], payload: bytes, limits: ProcessLimits
    ) -> tuple[dict[str, Any], bytes]:
        answer = self._process.call(
            fields, payload, subject=self._subject, fix=self._fix, limits=limits
        )
        return answer.fields, answer.payload


def _limits(samples: NDArray[Any], seconds: float) -> ProcessLimits:
    base = run_limits(0, samples.size)
    seconds += base.processor_seconds
    return ProcessLimits(base.memory_bytes, seconds, 60.0 + 10.0 * seconds)
