"""Open an external ONNX model in a child process with limits on memory and time.

Opening it means more than for `models.untrusted.session`: checks, conversions and trial runs at
several batch sizes. The limits are 512 MiB and 24 times the file, and what a batch may take there;
4 s of processor time, and 1 s a MB.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.compress.external.class_order import ClassOrder, find_class_order
from lepton_automl.compress.external.find_preprocessing import find_preprocessing, stated_size
from lepton_automl.compress.external.fixed_sizes import check_fixed_sizes
from lepton_automl.compress.external.interface import wrap_model
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.plausibility import stated_accuracies
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.compress.external.reader import has_free_size, read, signature
from lepton_automl.core.limited_process import (
    LimitedProcess,
    Message,
    ProcessLimits,
    extend_limits,
    serve,
)
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.untrusted.onnx_graph import MALFORMED
from lepton_automl.models.untrusted.session import batch_of, run_limits

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.compress.external.load import main; main()"
)
_FIX = "give a valid ONNX file of an image classifier"
_BASE_BYTES, _BYTES_PER_BYTE = 512 << 20, 24
_BASE_SECONDS, _SECONDS_PER_BYTE = 4.0, 1e-6
_ELAPSED_SECONDS = 60.0 + 10.0 * _SECONDS_PER_BYTE * MODEL.max_bytes


def load_external(
    path: Path,
    preprocessing: Path | None,
    class_names: Sequence[str],
    *,
    labels: str | None = None,
) -> ExternalModel:
    """Load a model with lepton's input and output.

    Parameters
    ----------
    path : Path
        An untrusted ONNX file.
    preprocessing : Path, optional
        File that states its preprocessing.
    class_names : sequence of str
        Of the data; a model that names its classes must have the same.
    labels : str, optional
        Value of --labels: `natural`, `text`, or a file with the class names in the order of the
        outputs.

    Raises
    ------
    DataError, ConfigError
        If the model is refused, exceeds a limit or crashes the process; the message says why.
    """
    request = {
        "path": str(path),
        "preprocessing": None if preprocessing is None else str(preprocessing),
        "class_names": list(class_names),
        "labels": labels,
    }
    with LimitedProcess(PROGRAM) as process:
        answer = process.call(request, subject=str(path), fix=_FIX, limits=limits_of(path))
    return _received(answer.fields, answer.payload)


def limits_of(path: Path) -> ProcessLimits:
    """Limits on opening the model in a file."""
    try:
        size = min(os.stat(path).st_size, MODEL.max_bytes)  # noqa: PTH116  The process reads it.
    except (OSError, ValueError):
        size = 0  # The process says what is wrong with the path.
    return ProcessLimits(
        _BASE_BYTES + _BYTES_PER_BYTE * size,
        _BASE_SECONDS + _SECONDS_PER_BYTE * size,
        _ELAPSED_SECONDS,
    )


def _received(body: Mapping[str, Any], file: bytes) -> ExternalModel:
    """The model in the answer of the child process."""
    names = {name: tuple(body[name]) for name in ("shape", "class_names", "kept_float", "changes")}
    pixels = body["pixels"]
    if pixels is not None:
        framing = pixels["framing"]
        made = None if framing is None else Framing.from_json(json.dumps(framing))
        numbers = {name: tuple(pixels[name]) for name in ("mean", "std")}
        pixels = ExternalPreprocessing(**(pixels | numbers | {"framing": made}))
    order = body["order"]
    return ExternalModel(
        file,
        preprocessing=body["preprocessing"],
        pixels=pixels,
        order=ClassOrder(**(order | {"names": tuple(order["names"])})),
        promises=tuple((source, share) for source, share in body["promises"]),
        **names,
    )


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    serve(answer)


def answer(request: Message) -> Message:
    """The model that a request of `load_external` asks for; its file is the payload.

    Raises
    ------
    DataError, ConfigError
        If it is refused. A malformed file may break any assumption of ONNX's own code, so its
        exceptions are reported as errors of the file, with their kind.
    """
    try:
        found = open_external(**request.fields)
    except MALFORMED as error:
        raise DataError(
            f"{request.fields['path']} cannot be used: {type(error).__name__}: {first_line(error)}",
            fix="export the model again; if it is sound, please report this",
        ) from error
    return Message({**dataclasses.asdict(found), "file": None}, found.file)


def open_external(
    path: str, preprocessing: str | None, class_names: Sequence[str], labels: str | None = None
) -> ExternalModel:
    """`load_external` in this process.

    Raises
    ------
    DataError, ConfigError
        If the model is refused.
    Exception
        Any of `MALFORMED` if it is malformed.
    """
    file = Path(path)
    opened = read(file, on_weights=_extend)
    model = opened.model
    check_fixed_sizes(file, model.graph)
    given = None if preprocessing is None else Path(preprocessing)
    size = stated_size(file, given) if has_free_size(model) else None
    seen = signature(file, model, size=size, classes=len(class_names))
    shape = (seen.height, seen.width, seen.channels)
    values = max(batch_of(shape), seen.batch) * math.prod(shape)
    extend_limits(run_limits(0, values).memory_bytes, 0)
    order = find_class_order(file, model, labels, class_names, seen.classes)
    known = find_preprocessing(file, model, seen, given)
    found = wrap_model(file, model, seen, known, order.names)
    changes = list(opened.changes)
    if size is not None:
        changes.append(f"height and width were free: {size[0]}x{size[1]}, as stated beside it")
    if seen.is_logit:
        changes.append(
            f"its one output is the score of the second class, {order.names[1]}, against "
            f"{order.names[0]}"
        )
    return dataclasses.replace(
        found,
        pixels=known,
        order=order,
        changes=tuple(changes),
        promises=stated_accuracies(file, model),
    )


def _extend(size: int) -> None:
    """Allow for weights of `size` bytes what is allowed for as many bytes of a file."""
    extend_limits(_BYTES_PER_BYTE * size, _SECONDS_PER_BYTE * size)
