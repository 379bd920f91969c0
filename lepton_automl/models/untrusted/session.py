"""Run an ONNX file from outside in a child process with limits on memory and time.

A file is from outside unless this process wrote it: digests in a manifest do not show who wrote an
artifact. The limits are for what a file of its size can need honestly:

- opening: 256 MiB and 8 times the file; 3 s of processor time and 0.1 s a MB.
- running a batch: 256 MiB and 128 times the pixels (at most 2 GiB), which is four times what
  feature maps of ResNet-50 take; 3 s of processor time, and 1 s for 10^10 products if every byte
  of the file were multiplied with every pixel (at most 600 s).

Batches are of at most 2 MiB, so that a file of some kilobytes cannot take a gigabyte. One child
process of a thread serves all files: starting it takes about half a second, a batch 0.2 ms.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.limited_process import ProcessLimits, acquire, extend_limits, release
from lepton_automl.core.untrusted_files import Source
from lepton_automl.errors import DataError
from lepton_automl.models.untrusted.session_process import PROGRAM

LIMIT_FIX = (
    "give an ONNX file that lepton wrote; one from elsewhere that is sound and needs more runs in "
    "ONNX Runtime itself"
)
"""The way out where a file exceeds a limit."""
_BATCH, _BATCH_BYTES = 256, 2 << 20
_BASE_BYTES, _BASE_SECONDS = 256 << 20, 3.0
_BYTES_PER_BYTE, _SECONDS_PER_BYTE = 8, 1e-7
"""Memory and processor time of opening a byte of a file."""
_BYTES_PER_PIXEL, _MAX_RUN_BYTES = 128, 2 << 30
_PRODUCTS_PER_SECOND, _MAX_RUN_SECONDS = 1e10, 600.0


def batch_of(shape: tuple[int, ...]) -> int:
    """Samples of this shape that are classified at once."""
    return max(1, min(_BATCH, _BATCH_BYTES // math.prod(shape)))


def open_limits(size: int) -> ProcessLimits:
    """Limits on opening a file of `size` bytes."""
    return _limits(_BASE_BYTES + _BYTES_PER_BYTE * size, _BASE_SECONDS + _SECONDS_PER_BYTE * size)


def extend_for_weights(size: int) -> None:
    """In the child process: allow for weights of `size` bytes what as many bytes of a file may."""
    extend_limits(_BYTES_PER_BYTE * size, _SECONDS_PER_BYTE * size)


def run_limits(size: int, values: int) -> ProcessLimits:
    """Limits on running a file of `size` bytes on a batch of `values` pixels, channels counted."""
    memory = _BASE_BYTES + min(_BYTES_PER_PIXEL * values, _MAX_RUN_BYTES)
    seconds = min(size * values / _PRODUCTS_PER_SECOND, _MAX_RUN_SECONDS)
    return _limits(memory, _BASE_SECONDS + seconds)


def _limits(memory: int, seconds: float) -> ProcessLimits:
    return ProcessLimits(memory, seconds, 60.0 + 10.0 * seconds)


class UntrustedSession:
    """An ONNX file with lepton's input and output, open in a child process.

    Parameters
    ----------
    source : Path or str
        Its path, in messages.
    content : bytes
        Of the file.
    folder : Path
        In which it is; its weights may be in other files there.
    words : sequence of str
        Keys of its metadata that are returned.

    Raises
    ------
    DataError
        If it cannot be used, exceeds a limit or crashes the process.
    MachineError
        If the process cannot be started.
    """

    takes_any_size = False
    """Whether pictures of any height and width are classified, those of one batch of one size."""

    def __init__(
        self, source: Source, content: bytes, folder: Path, words: tuple[str, ...] = ()
    ) -> None:
        self._source, self._size = str(source), len(content)
        self._process = acquire(PROGRAM)
        # The process may have been started in another working directory.
        place = os.path.abspath(folder)  # noqa: PTH100  Links stay, unlike in Path.resolve.
        request = {"source": self._source, "folder": place, "words": list(words)}
        limits = open_limits(self._size)
        try:
            answer = self._process.call(
                request, content, subject=self._source, fix=LIMIT_FIX, limits=limits
            ).fields
        except BaseException:
            self.close()
            raise
        self.shape: tuple[int, ...] = tuple(answer["shape"])
        """Height, width and channels of its pictures; length and channels of its signals."""
        self.classes: int = answer["classes"]
        self.dtype = np.dtype(str(answer["dtype"]))
        """Of its samples."""
        self.words: Mapping[str, str] = answer["words"]
        """Those entries of its metadata that were asked for and are there."""
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the process to the next file, or end it where it still works on this one."""
        release(self._process)

    def send(self, pixels: NDArray[Any]) -> None:
        """Begin to classify one batch of samples (n, *shape) of type `dtype`."""
        self._sent = len(pixels)
        self._process.send(
            {},
            np.ascontiguousarray(pixels, self.dtype).tobytes(),
            subject=self._source,
            fix=LIMIT_FIX,
            limits=run_limits(self._size, pixels.size),
        )

    def receive(self) -> NDArray[np.float32]:
        """Probabilities (n, classes) of the batch that was sent.

        Raises
        ------
        DataError
            If it does not run, its results are not probabilities, it exceeds a limit or crashes.
        """
        found = np.frombuffer(self._process.receive().payload, np.float32)
        if found.size != self._sent * self.classes:
            raise DataError(f"{self._source}: its process gave a malformed answer", fix=LIMIT_FIX)
        return found.reshape(self._sent, self.classes)

    def predict(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, classes) of samples as `send` takes them, in batches."""
        size, parts = batch_of(self.shape), []
        for start in range(0, max(len(pixels), 1), size):
            self.send(pixels[start : start + size])
            parts.append(self.receive())
        return np.concatenate(parts)
