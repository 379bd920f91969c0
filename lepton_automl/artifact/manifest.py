"""Files of an artifact folder, and whether they still have their recorded sha256."""

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
"""File -> path of its architecture."""
GOLDEN = "golden/pixels.npy"
GOLDEN_ANSWERS = {INT8: "golden/int8.npy", FLOAT: "golden/float.npy"}
LABELS = "labels.txt"
ABOUT = "about.json"
REFERENCE_PREDICTIONS = "reference_test_predictions.npy"
VERDICT = "verdict.json"
CARD = "MODEL_CARD.md"
MANIFEST = "manifest.json"
PIXEL_SCALE = "pixel_scale"
"""ONNX metadata: black and white of files with more than 8 bits, as `--pixel-scale` takes them."""
FORMAT = 2
"""Format of an artifact folder, `format` in its manifest; another number is refused."""

Digests = dict[str, str]
"""Path inside the folder -> sha256."""


def read_manifest(folder: Path) -> tuple[Digests, Precision]:
    """Read the manifest: the digests of all files, and which precision ships.

    Raises
    ------
    DataError
        If there is no valid manifest, or another version of lepton wrote it in another format.
    """
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_text())
        if (found := body["format"]) != FORMAT:
            raise _other_format(folder, found)
        digests = {str(name): str(item["sha256"]) for name, item in body["files"].items()}
        primary = body["primary"]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a finished artifact: there is no {MANIFEST}",
            fix="run `lepton export` on its run; it continues where it stopped",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(path, error) from error
    missing = {*MODELS, ABOUT} - set(digests)
    if missing or primary not in ("int8", "float"):
        raise unusable(path, f"it does not list {', '.join(sorted(missing)) or 'what ships'}")
    return digests, "int8" if primary == "int8" else "float"


def damage(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Files that are missing or changed, one sentence each."""
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
    """Whether there is a manifest and every file matches it."""
    return (folder / MANIFEST).is_file() and not damage(folder, read_manifest(folder)[0])


def unusable(path: Path, reason: object) -> DataError:
    """An error for an artifact file that cannot be read."""
    return DataError(
        f"{path} cannot be used: {reason}",
        fix="run `lepton export` on its run with a fresh artifact folder",
    )


def _other_format(folder: Path, found: object) -> DataError:
    return DataError(
        f"{folder} is an artifact of format {found}, made by another version of lepton; this "
        f"version reads format {FORMAT}",
        fix=f"verify it with the lepton that made it, or make it again with this one; its ONNX "
        f"files can be used as they are: lepton predict {folder / INT8} PICTURES",
    )
