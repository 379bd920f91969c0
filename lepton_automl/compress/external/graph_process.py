"""Run the graph of an external model, wrapped or quantized, in a child process with limits.

`load` has tried the model on a few pictures. What runs it on other pictures, with other outputs or
quantized can still crash or never end, so it is done in a child process too: prediction, the
ranges of equalization and calibration, shape inference and the measurement of latency. The command
itself only reads and changes the description of the graph.

The limits are for what a model of its size can need honestly: 1 GiB, 32 times the file and 4 times
the pictures, and what a batch may take in `models.untrusted.session`; 60 s of processor time, 2 s a
MB, and 1 s for 10^10 products if every byte of the file were multiplied with every pixel (at most
six hours). Predictions have the limits of `models.untrusted.session`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lepton_automl.core.limited_process import (
    Message,
    ProcessLimits,
    acquire,
    release,
    serve,
)
from lepton_automl.cost.cost import Cost
from lepton_automl.cost.latency import Latency, Stopwatch, Undecided
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.untrusted.onnx_graph import MALFORMED
from lepton_automl.models.untrusted.session import UntrustedSession, run_limits

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.compress.external.graph_process import main; main()"
)
_SUBJECT = "the model that was given"
_FIX = "check the model in ONNX Runtime itself, or export it again with standard operators"
_BASE_BYTES, _BYTES_PER_BYTE, _BYTES_PER_PIXEL = 1 << 30, 32, 4
_BASE_SECONDS, _SECONDS_PER_BYTE, _MAX_SECONDS = 60.0, 2e-6, 6 * 3600.0
_PRODUCTS_PER_SECOND = 1e10
_BATCH_PICTURES = 64
"""Most pictures that are run at once."""
_TIMED_CALLS = 100
"""More calls than a measurement of latency makes where one takes long."""


def predict_file(file: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (N, classes) of pixels (N, H, W, C) in ONNX Runtime.

    Raises
    ------
    DataError
        If it does not run, its results are not probabilities, it exceeds a limit or crashes.
    """
    try:
        with UntrustedSession(_SUBJECT, file, Path()) as session:
            return session.predict(pixels)
    except DataError as error:
        raise DataError(error.what, fix=_FIX) from error


def quantize_graph(
    file: bytes,
    pixels: NDArray[np.uint8],
    weight_limit: int,
    averages: bool,
    excluded: Sequence[str],
    only: Sequence[str],
) -> bytes:
    """As `static_quantization.quantize_onnx`; raises as `predict_file`."""
    how = [weight_limit, averages, list(excluded), list(only)]
    return _asked("quantize", file, pixels, how).payload


def equalize_graph(file: bytes, pixels: NDArray[np.uint8]) -> bytes:
    """As `equalization.equalize_onnx`; raises as `predict_file`."""
    return _asked("equalize", file, pixels, []).payload


def graph_cost(file: bytes, value_bytes: int) -> Cost:
    """As `cost.onnx_cost.onnx_cost`; raises as `predict_file`."""
    return Cost(**_asked("cost", file, None, [value_bytes]).fields)


class LimitedStopwatch(Stopwatch):
    """Measures latencies of external models in the child process.

    Parameters
    ----------
    shape : tuple of int
        Height, width and channels of their pictures.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._values = math.prod(shape)

    def measure(
        self,
        files: Mapping[str, bytes],
        *,
        rounds: int = 9,
        seconds: float = 0.015,
        is_undecided: Undecided | None = None,
    ) -> dict[str, Latency]:
        """As `Stopwatch.measure`, without more rounds for what is undecided.

        Raises
        ------
        DataError
            As `predict_file`.
        """
        assert is_undecided is None, "decided by the caller"
        names, sizes = list(files), [len(file) for file in files.values()]
        fields = {"do": "measure", "sizes": sizes, "how": [rounds, seconds]}
        values = _TIMED_CALLS * self._values
        answer = _call(fields, b"".join(files.values()), _limits(sum(sizes), values, self._values))
        return {
            name: Latency(**found)
            for name, found in zip(names, answer.fields["found"], strict=True)
        }

    def quiet_reference_ms(self, *, rounds: int = 40, seconds: float = 0.2) -> float:
        """As `Stopwatch.quiet_reference_ms`, in the process in which files are measured."""
        fields = {"do": "quiet", "sizes": [], "how": [rounds, seconds]}
        return float(_call(fields, b"", _limits(0, 0, 0)).fields["ms"])


def _asked(what: str, file: bytes, pixels: NDArray[np.uint8] | None, how: Sequence[Any]) -> Message:
    given = np.zeros((0, 1, 1, 1), np.uint8) if pixels is None else pixels
    fields = {"do": what, "sizes": [len(file)], "shape": given.shape, "how": list(how)}
    batch = min(len(given), _BATCH_PICTURES) * math.prod(given.shape[1:])
    return _call(fields, file + given.tobytes(), _limits(len(file), given.size, batch))


def _limits(size: int, values: int, batch: int) -> ProcessLimits:
    """Limits for a file of `size` bytes, `values` pixels in all and `batch` pixels at once."""
    memory = _BASE_BYTES + _BYTES_PER_BYTE * size + _BYTES_PER_PIXEL * values
    seconds = min(size * values / _PRODUCTS_PER_SECOND, _MAX_SECONDS)
    seconds += _BASE_SECONDS + _SECONDS_PER_BYTE * size
    return ProcessLimits(memory + run_limits(0, batch).memory_bytes, seconds, 60.0 + 10.0 * seconds)


def _call(fields: dict[str, Any], payload: bytes, limits: ProcessLimits) -> Message:
    process = acquire(PROGRAM)
    try:
        return process.call(fields, payload, subject=_SUBJECT, fix=_FIX, limits=limits)
    finally:
        release(process)


def start_process() -> None:
    """Start the process of this thread, so that it loads its modules meanwhile."""
    release(acquire(PROGRAM))


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    # Loaded before the first request, whose limits do not count it.
    from lepton_automl.compress.external import equalization, static_quantization  # noqa: F401
    from lepton_automl.cost import onnx_cost  # noqa: F401

    serve(answer)


def answer(request: Message) -> Message:
    """The answer to a request of a function above.

    Raises
    ------
    DataError
        If the model does not run. A malformed graph may break any assumption of the libraries, so
        their exceptions are reported as errors of the model, with their kind.
    """
    fields, payload = request.fields, memoryview(request.payload)
    files, start = [], 0
    for size in fields["sizes"]:
        files.append(bytes(payload[start : start + size]))
        start += size
    try:
        return _ANSWERS[fields["do"]](fields, files, payload[start:])
    except (*MALFORMED, DecodeError) as error:
        if isinstance(error, MemoryError):
            raise
        raise DataError(
            f"{_SUBJECT} cannot be quantized: {type(error).__name__}: {first_line(error)}",
            fix=_FIX,
        ) from error


def _pixels(fields: Mapping[str, Any], rest: memoryview) -> NDArray[np.uint8]:
    return np.frombuffer(rest, np.uint8).reshape(fields["shape"])


def _quantize(fields: Mapping[str, Any], files: Sequence[bytes], rest: memoryview) -> Message:
    from lepton_automl.compress.external.static_quantization import quantize_onnx

    return Message({}, quantize_onnx(files[0], _pixels(fields, rest), *fields["how"]))


def _equalize(fields: Mapping[str, Any], files: Sequence[bytes], rest: memoryview) -> Message:
    from lepton_automl.compress.external.equalization import equalize_onnx

    return Message({}, equalize_onnx(files[0], _pixels(fields, rest)))


def _cost(fields: Mapping[str, Any], files: Sequence[bytes], _: memoryview) -> Message:
    from lepton_automl.cost.onnx_cost import onnx_cost

    return Message(dataclasses.asdict(onnx_cost(files[0], *fields["how"])))


def _measure(fields: Mapping[str, Any], files: Sequence[bytes], _: memoryview) -> Message:
    rounds, seconds = fields["how"]
    named = {str(place): file for place, file in enumerate(files)}
    found = Stopwatch().measure(named, rounds=rounds, seconds=seconds)
    return Message({"found": [dataclasses.asdict(each) for each in found.values()]})


def _quiet(fields: Mapping[str, Any], _: Sequence[bytes], __: memoryview) -> Message:
    rounds, seconds = fields["how"]
    return Message({"ms": Stopwatch().quiet_reference_ms(rounds=rounds, seconds=seconds)})


_ANSWERS = {
    "quantize": _quantize,
    "equalize": _equalize,
    "cost": _cost,
    "measure": _measure,
    "quiet": _quiet,
}
