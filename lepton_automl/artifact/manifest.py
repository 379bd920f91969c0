"""Which files an artifact folder holds, and whether they are still the ones that were written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lepton_automl.artifact.verdict import Precision
from lepton_automl.core import files
from lepton_automl.errors import DataError

INT8 = "model.int8.onnx"
FLOAT = "model.fp32.onnx"
REFERENCE = "reference/model.fp32.onnx"
MODELS = (INT8, FLOAT, REFERENCE)
ARCHS = {INT8: "arch.json", FLOAT: "arch.json", REFERENCE: "reference/arch.json"}
"""Where the description of each file's net lies."""
GOLDEN = "golden/pixels.npy"
GOLDEN_ANSWERS = {INT8: "golden/int8.npy", FLOAT: "golden/float.npy"}
LABELS = "labels.txt"
ABOUT = "about.json"
REFERENCE_PREDICTIONS = "reference_test_predictions.npy"
VERDICT = "verdict.json"
CARD = "MODEL_CARD.md"
MANIFEST = "manifest.json"

Digests = dict[str, str]
"""Path inside the folder -> sha256."""


def read_manifest(folder: Path) -> tuple[Digests, Precision]:
    """The digests that a complete bundle promises, and which of its files ships.

    Raises
    ------
    DataError
        If there is no manifest, or it is none.
    """
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_text())
        digests = {str(name): str(item["sha256"]) for name, item in body["files"].items()}
        primary = body["primary"]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a finished artifact: there is no {MANIFEST}",
            fix="run `lepton export` on its run; it goes on where it was stopped",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(path, error) from error
    missing = {*MODELS, ABOUT} - set(digests)
    if missing or primary not in ("int8", "float"):
        raise unusable(path, f"it does not list {', '.join(sorted(missing)) or 'what ships'}")
    return digests, "int8" if primary == "int8" else "float"


def damage(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """A sentence for every file that is missing or is not the one that was written."""
    root = folder.resolve()
    problems = []
    for name, digest in digests.items():
        path = folder / name
        if not path.resolve().is_relative_to(root):
            problems.append(f"{name} lies outside of the artifact")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif files.sha256(path) != digest:
            problems.append(f"{name} has changed since it was written: its sha256 differs")
    return problems


def is_complete(folder: Path) -> bool:
    """A manifest is there and every file is as it says."""
    return (folder / MANIFEST).is_file() and not damage(folder, read_manifest(folder)[0])


def unusable(path: Path, reason: object) -> DataError:
    """The error for a file of an artifact that cannot be read."""
    return DataError(
        f"{path} cannot be used: {reason}",
        fix="run `lepton export` on its run with a fresh artifact folder",
    )
