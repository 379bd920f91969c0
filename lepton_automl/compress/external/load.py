"""Open an untrusted ONNX file in a child process, so that a crash cannot take the caller down."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.compress.external.interface import wrap_model
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.preprocessing import find_preprocessing, labels_in
from lepton_automl.compress.external.reader import read, signature
from lepton_automl.core import files
from lepton_automl.core.subprocesses import run_json
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
    path: Path, preprocessing: Path | None, class_names: Sequence[str], out: Path
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
    }

    def died(number: int) -> LeptonError:
        return DataError(
            f"{path} crashed the process that opened it (signal {number})",
            fix="give a valid ONNX file",
        )

    body = run_json(PROGRAM, json.dumps(request), f"opening {path}", died)
    names = {name: tuple(body[name]) for name in ("shape", "class_names", "kept_float")}
    return ExternalModel(out.read_bytes(), preprocessing=body["preprocessing"], **names)


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
    except LeptonError as error:
        known = error
    except _MALFORMED as error:
        line = first_line(error)
        known = DataError(
            f"{request['path']} cannot be used: {type(error).__name__}: {line}",
            fix="export the model again; if it is sound, please report this",
        )
    return {"error": type(known).__name__, "what": known.what, "fix": known.fix}


def _opened(
    path: str, preprocessing: str | None, class_names: Sequence[str], out: str
) -> dict[str, object]:
    file = Path(path)
    model = read(file)
    seen = signature(file, model)
    given = None if preprocessing is None else Path(preprocessing)
    names = _names(file, labels_in(model), class_names, seen.classes)
    found = wrap_model(file, model, seen, find_preprocessing(file, model, seen, given), names)
    files.write(Path(out), found.file)
    return {**dataclasses.asdict(found), "file": None}


def _names(
    path: Path, own: Sequence[str] | None, wanted: Sequence[str], classes: int
) -> tuple[str, ...]:
    """Class names in the order of the outputs."""
    if len(wanted) != classes:
        raise DataError(
            f"{path} has {classes} classes, the data have {len(wanted)}: "
            f"{', '.join(wanted[:5])}{', ...' if len(wanted) > 5 else ''}",
            fix="give data with one folder per class of the model",
        )
    if own is None or len(own) != classes:
        return tuple(wanted)
    if set(own) != set(wanted):
        strange = sorted(set(own) - set(wanted))
        raise DataError(
            f"{path} has classes that the data do not have: {', '.join(strange[:5])}",
            fix="name the folders of the data as the model names its classes",
        )
    return tuple(own)
