"""Probing: an unknown model is first opened in a process of its own, so that only that can die."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.preprocessing import labels_in, preparation
from lepton_automl.compress.external.reader import read, signature
from lepton_automl.compress.external.wrap import wrapped
from lepton_automl.core import files
from lepton_automl.core.subprocesses import run_json
from lepton_automl.errors import DataError, LeptonError, first_line

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.compress.external.load import main; main()"
)


ODD = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What ONNX's code and ours raise where a file is not what it should be."""


def probed(
    path: Path, preprocessing: Path | None, class_names: Sequence[str], out: Path
) -> ExternalModel:
    """The model in our form, its file also in `out`.

    Parameters
    ----------
    path : Path
        An ONNX file nobody vouches for.
    preprocessing : Path, optional
        Says how its pictures are prepared.
    class_names : sequence of str
        Of the data; a model that names its own classes must have the same.
    out : Path
        Where the float file is written.

    Raises
    ------
    DataError, ConfigError
        Why the model is refused.
    """
    request = {
        "path": str(path),
        "preprocessing": None if preprocessing is None else str(preprocessing),
        "class_names": list(class_names),
        "out": str(out),
    }

    def died(number: int) -> LeptonError:
        return DataError(
            f"{path} ended the process that opened it by signal {number}",
            fix="give a sound ONNX file",
        )

    said = run_json(PROGRAM, json.dumps(request), f"opening {path}", died)
    names = {name: tuple(said[name]) for name in ("shape", "class_names", "kept_float")}
    return ExternalModel(out.read_bytes(), seen_as=said["seen_as"], **names)


def main() -> None:
    """Answer one request."""
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What `main` answers; what a user can put right is answered, not raised.

    A damaged file may break any rule that ONNX's own code relies on, so whatever that raises is
    the file's fault; the kind of error is told, for those who know the file to be sound.
    """
    try:
        return _opened(**request)
    except LeptonError as error:
        known = error
    except ODD as error:
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
    found = wrapped(file, model, seen, preparation(file, model, seen, given), names)
    files.write(Path(out), found.file)
    return {**dataclasses.asdict(found), "file": None}


def _names(
    path: Path, own: Sequence[str] | None, wanted: Sequence[str], classes: int
) -> tuple[str, ...]:
    """Class names in the order of the outputs."""
    if len(wanted) != classes:
        raise DataError(
            f"{path} tells {classes} classes apart, the data have {len(wanted)}: "
            f"{', '.join(wanted[:5])}{', ...' if len(wanted) > 5 else ''}",
            fix="give data with one folder for each class of the model",
        )
    if own is None or len(own) != classes:
        return tuple(wanted)
    if set(own) != set(wanted):
        strange = sorted(set(own) - set(wanted))
        raise DataError(
            f"{path} knows classes that the data do not have: {', '.join(strange[:5])}",
            fix="name the folders of the data as the model names its classes",
        )
    return tuple(own)
