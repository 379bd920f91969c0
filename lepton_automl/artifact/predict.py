"""Classify picture files with an ONNX file and the class names in its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lepton_automl.artifact import manifest
from lepton_automl.data import decode
from lepton_automl.errors import DataError
from lepton_automl.models import onnx_file
from lepton_automl.models.onnx_file import UNLOADABLE

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """Predicted class of one picture."""

    file: Path
    label: str
    probability: float
    """Of that label, 0 to 1."""


def predict(artifact: Path, files: Sequence[Path]) -> list[Prediction]:
    """Predict the most probable class of every picture.

    Parameters
    ----------
    artifact : Path
        An artifact folder (its shipped file is used), the run folder, or an ONNX file.
    files : sequence of Path
        Picture files, or folders of pictures.

    Raises
    ------
    DataError
        If the artifact or a picture cannot be read.
    """
    model = shipped_file(artifact)
    session = _opened(model)
    labels = _labels(session, model)
    height, width, channels = session.get_inputs()[0].shape[1:]
    paths = _pictures(files)

    def pixels_of(path: Path) -> NDArray[np.uint8]:
        return _decoded(path, channels, (height, width))

    found = []
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        answers = onnx_file.predict_probabilities(
            session, np.stack(decode.map_in_threads(pixels_of, batch))
        )
        found += [
            Prediction(path, labels[int(row.argmax())], float(row.max()))
            for path, row in zip(batch, answers, strict=True)
        ]
    return found


def shipped_file(artifact: Path) -> Path:
    """The ONNX file of a run folder or an artifact folder, or the given ONNX file itself.

    Raises
    ------
    DataError
        If there is none.
    """
    if artifact.is_file() and artifact.suffix == ".onnx":
        return artifact
    if artifact.is_file() or not artifact.exists():
        raise DataError(
            f"{artifact} {'is no ONNX file' if artifact.is_file() else 'does not exist'}",
            fix="give a run folder, its artifact/ or an .onnx file, then the pictures",
        )
    nested = artifact / "artifact"
    folder = nested if nested.is_dir() and not (artifact / manifest.MANIFEST).exists() else artifact
    _, primary = manifest.read_manifest(folder)
    return folder / (manifest.INT8 if primary == "int8" else manifest.FLOAT)


def _decoded(path: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        return decode.decode(path, channels, size)
    except DataError as error:
        raise DataError(error.what, fix="leave this file out") from error


def _opened(model: Path) -> onnxruntime.InferenceSession:
    try:
        return onnx_file.open_session(model.read_bytes())
    except (OSError, *UNLOADABLE) as error:
        raise DataError(
            f"{model} does not run in ONNX Runtime: {error}",
            fix="give an ONNX file that lepton wrote",
        ) from error


def _labels(session: onnxruntime.InferenceSession, model: Path) -> list[str]:
    words = session.get_modelmeta().custom_metadata_map
    if "labels" not in words:
        raise DataError(
            f"{model} does not name its classes", fix="give an ONNX file that lepton wrote"
        )
    return [str(name) for name in json.loads(words["labels"])]


def _pictures(files: Iterable[Path]) -> list[Path]:
    """The files, folders replaced by the pictures in them."""
    paths: list[Path] = []
    for file in files:
        if file.is_dir():
            inside = (path for path in sorted(file.rglob("*")) if path.is_file())
            paths += [path for path in inside if path.suffix.lower() in decode.SUFFIXES]
        else:
            paths.append(file)
    if not paths:
        raise DataError("there is no picture to classify", fix="give picture files, or a folder")
    return paths
