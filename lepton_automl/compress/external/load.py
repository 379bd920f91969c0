"""Open an untrusted ONNX file in a child process, so that a crash cannot take the caller down."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.compress.external.class_order import ClassOrder, find_class_order
from lepton_automl.compress.external.interface import wrap_model
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.plausibility import stated_accuracies
from lepton_automl.compress.external.preprocessing import (
    Preprocessing,
    find_preprocessing,
    stated_size,
)
from lepton_automl.compress.external.reader import has_free_size, read, signature
from lepton_automl.core import files
from lepton_automl.core.subprocesses import error_answer, run_json
from lepton_automl.data.framing import Framing
from lepton_automl.errors import DataError, LeptonError, first_line

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.compress.external.load import main; main()"
)


_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Exceptions that ONNX's code and ours raise for malformed files."""


def load_external(
    path: Path,
    preprocessing: Path | None,
    class_names: Sequence[str],
    out: Path,
    *,
    labels: str | None = None,
) -> ExternalModel:
    """Load a model with lepton's input and output; its file is also written to `out`.

    Parameters
    ----------
    path : Path
        An untrusted ONNX file.
    preprocessing : Path, optional
        File that states its preprocessing.
    class_names : sequence of str
        Of the data; a model that names its classes must have the same.
    out : Path
        Path of the float file.
    labels : str, optional
        Value of --labels: `natural`, `text`, or a file with the class names in the order of the
        outputs.

    Raises
    ------
    DataError, ConfigError
        If the model is refused; the message says why.
    """
    request = {
        "path": str(path),
        "preprocessing": None if preprocessing is None else str(preprocessing),
        "class_names": list(class_names),
        "out": str(out),
        "labels": labels,
    }

    def died(number: int) -> LeptonError:
        return DataError(
            f"{path} crashed the process that opened it (signal {number})",
            fix="give a valid ONNX file",
        )

    body = run_json(PROGRAM, json.dumps(request), f"opening {path}", died)
    return _received(body, out.read_bytes())


def _received(body: Mapping[str, Any], file: bytes) -> ExternalModel:
    """The model in the answer of the child process."""
    names = {name: tuple(body[name]) for name in ("shape", "class_names", "kept_float", "changes")}
    pixels = body["pixels"]
    if pixels is not None:
        framing = pixels["framing"]
        made = None if framing is None else Framing.from_json(json.dumps(framing))
        numbers = {name: tuple(pixels[name]) for name in ("mean", "std")}
        pixels = Preprocessing(**(pixels | numbers | {"framing": made}))
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
    """Answer one request."""
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `main`; errors that a user can correct are returned, not raised.

    A malformed file may break any assumption of ONNX's own code, so its exceptions are reported
    as errors of the file, with their kind.
    """
    try:
        return _opened(**request)
    except (LeptonError, OSError) as error:
        return error_answer(error)
    except _MALFORMED as error:
        line = first_line(error)
        malformed = DataError(
            f"{request['path']} cannot be used: {type(error).__name__}: {line}",
            fix="export the model again; if it is sound, please report this",
        )
        return error_answer(malformed)


def _opened(
    path: str,
    preprocessing: str | None,
    class_names: Sequence[str],
    out: str,
    labels: str | None = None,
) -> dict[str, object]:
    file = Path(path)
    opened = read(file)
    model = opened.model
    given = None if preprocessing is None else Path(preprocessing)
    size = stated_size(file, given) if has_free_size(model) else None
    seen = signature(file, model, size=size, classes=len(class_names))
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
    found = dataclasses.replace(
        found,
        pixels=known,
        order=order,
        changes=tuple(changes),
        promises=stated_accuracies(file, model),
    )
    files.write(Path(out), found.file)
    return {**dataclasses.asdict(found), "file": None}
