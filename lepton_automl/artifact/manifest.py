"""Files of an artifact folder, and whether they still have their recorded sha256."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.artifact.verdict import Precision
from lepton_automl.core import untrusted_files
from lepton_automl.core.files import machine_error, real_path
from lepton_automl.core.untrusted_files import ARRAYS, MODEL, is_of_machine
from lepton_automl.errors import ArtifactError, DataError, LeptonError, MachineError, first_line

INT8 = "model.int8.onnx"
FLOAT = "model.fp32.onnx"
REFERENCE = "reference/model.fp32.onnx"
MODELS = (INT8, FLOAT, REFERENCE)
ARCHS = {INT8: "arch.json", FLOAT: "arch.json", REFERENCE: "reference/arch.json"}
"""File -> path of its architecture."""
GOLDEN = "golden/pixels.npy"
GOLDEN_PREDICTIONS = {INT8: "golden/int8.npy", FLOAT: "golden/float.npy"}


def golden_predictions(name: str) -> str:
    """Path of the golden predictions of a further format, by its name."""
    return f"golden/{name}.npy"


def is_format_path(name: str, path: str) -> bool:
    """Whether a path is where a further format has its files: in its folder, or `model.*`."""
    first, *rest = path.split("/")
    if not rest:
        return path.startswith("model.") and path not in MODELS
    return first == name and not {"", ".", ".."} & set(rest)


LABELS = "labels.txt"
ABOUT = "about.json"
REFERENCE_PREDICTIONS = "reference_test_predictions.npy"
VERDICT = "verdict.json"
CARD = "MODEL_CARD.md"
MANIFEST = "manifest.json"
DEVICE = "lepton_device.py"
"""Program that verifies, classifies and measures where lepton is not installed."""
CHANNELS = "channels"
"""ONNX metadata: JSON list of the names of a signal's channels."""
STRIDE = "stride"
"""ONNX metadata: values from the start of one window of a recording to the next."""
REJECT_BELOW = "reject_below"
"""ONNX metadata: probability below which the prediction is none of the classes."""
PIXEL_SCALE = "pixel_scale"
"""ONNX metadata: black and white of files with more than 8 bits, as `--pixel-scale` takes them."""
INPUT_TYPE = "input_type"
"""ONNX metadata: type of the values that the file reads, where it is not the usual one."""
SIGNATURE = "manifest.json.sig"
"""Signature of the manifest (`artifact.signature`); the one file that the manifest cannot list."""
SBOM = "sbom.cdx.json"
"""Bill of materials of the model (`artifact.bill_of_materials`)."""
FORMAT = 2
"""Format of an artifact folder, `format` in its manifest; another number is refused."""

FRESH = "run `lepton export` on its run with a fresh artifact folder"
"""The way out where a file of an artifact cannot be used."""

Digests = dict[str, str]
"""Path inside the folder -> sha256."""


MALFORMED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    LeptonError,
)
"""Exceptions of reading a file whose content is not what its reader expects."""


@dataclass(frozen=True)
class SealedFile:
    """What the manifest says of a file."""

    sha256: str
    """64 hexadecimal digits in lower case."""
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`, which seals the other files."""

    lepton: str
    """Version that sealed the artifact."""
    primary: Precision
    """Which precision ships."""
    files: Mapping[str, SealedFile]
    """Path inside the folder -> what it was when the artifact was sealed; all files but this."""

    @property
    def digests(self) -> Digests:
        """Path inside the folder -> sha256."""
        return {name: file.sha256 for name, file in self.files.items()}

    @property
    def shipped(self) -> str:
        """Path of the model that ships."""
        return INT8 if self.primary == "int8" else FLOAT

    def damage(self, folder: Path) -> list[str]:
        """Files of `folder` that are missing, changed or of another size, one sentence each."""
        found = damage(folder, self.digests)
        if found:
            return found
        sizes = {name: (folder / name).stat().st_size for name in self.files}
        return [
            f"{name} has {sizes[name]} bytes, {MANIFEST} says {file.bytes}"
            for name, file in self.files.items()
            if sizes[name] != file.bytes
        ]

    def content(self, folder: Path, name: str) -> bytes:
        """Content of a file that has its recorded sha256 and size.

        Raises
        ------
        ArtifactError
            If it cannot be read, has changed or is not listed.
        """
        path, listed = folder / name, self.files.get(name)
        try:
            found = untrusted_files.read_bytes(path, MODEL, fix=FRESH)
        except LeptonError as error:
            raise unusable(path, error.what) from error
        if listed is None:
            raise unusable(path, f"{MANIFEST} does not list it")
        if (hashlib.sha256(found).hexdigest(), len(found)) != (listed.sha256, listed.bytes):
            raise unusable(path, f"it has changed since {MANIFEST} sealed it: its sha256 differs")
        return found


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest.

    Raises
    ------
    DataError
        If there is none, or another version of lepton wrote it in another format.
    ArtifactError
        If it is malformed: a field is missing, unknown, given twice or of another type, or a model
        is not listed.
    """
    path = folder / MANIFEST
    try:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}")
        text, body = _read_object(path)
        if type(body["format"]) is int and body["format"] != FORMAT:
            raise _other_format(folder, body["format"])
        found = _parsed(body)
        _check_own_digest(body, text)
        return found
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a finished artifact: there is no {MANIFEST}",
            fix="run `lepton export` on its run; it continues where it stopped",
        ) from error
    except LeptonError:
        raise
    except MALFORMED as error:
        raise unusable(path, error) from error


def canonical(fields: Mapping[str, Any]) -> str:
    """The text of a manifest: sorted keys, ASCII, and a digest over all other fields.

    `sha256` is that of the other fields as JSON with sorted keys and without spaces. It shows
    accidents, as the digests of the files do; an attacker who changes a field computes it again.
    """
    others = {name: value for name, value in fields.items() if name != "sha256"}
    plain = json.dumps(others, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps(others | {"sha256": digest}, sort_keys=True, indent=2) + "\n"


def _check_own_digest(body: Mapping[str, Any], text: str) -> None:
    """Check that a manifest is what `canonical` gives; earlier ones have no digest of their own."""
    if "sha256" in body and text != canonical(body):
        raise ValueError("it has changed since it was written: its own sha256 differs")


def _read_object(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a JSON file, and the object in it; raises as `read_json`."""
    try:
        text = untrusted_files.read_text(path, fix=FRESH)
        body: dict[str, Any] = untrusted_files.parse_json(text, path, fix=FRESH, top=dict)
    except LeptonError as error:
        raise ValueError(error.what) from error
    return text, body


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, is not UTF-8 or not an object, or a key is given twice.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    return _read_object(path)[1]


def _parsed(body: dict[str, Any]) -> Manifest:
    own = {"sha256"} & body.keys()
    _check_keys(body, {"format", "lepton", "primary", "files"} | own, "it")
    if type(body["format"]) is not int or not isinstance(body["lepton"], str):
        raise ValueError("format or lepton is of another type")
    if body["primary"] not in ("int8", "float"):
        raise ValueError("it does not list what ships")
    missing = {*MODELS, ABOUT} - set(body["files"])
    if missing:
        raise ValueError(f"it does not list {', '.join(sorted(missing))}")
    listed = {}
    for name, item in body["files"].items():
        _check_keys(item, {"sha256", "bytes"}, name)
        digest, size = item["sha256"], item["bytes"]
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"the sha256 of {name} is not 64 hexadecimal digits")
        if type(size) is not int:
            raise ValueError(f"the bytes of {name} are not a whole number")
        listed[name] = SealedFile(digest, size)
    return Manifest(body["lepton"], body["primary"], listed)


def _check_keys(body: object, keys: set[str], what: str) -> None:
    if not isinstance(body, dict):
        raise ValueError(f"{what} is {type(body).__name__}, not an object")
    if set(body) != keys:
        raise ValueError(f"{what} has {', '.join(sorted(body))}, not {', '.join(sorted(keys))}")


def damage(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Files that are missing or changed, one sentence each."""
    root = real_path(folder)
    problems = []
    for name, digest in digests.items():
        path = folder / name
        if not real_path(path).is_relative_to(root):
            problems.append(f"{name} lies outside of the artifact")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif untrusted_files.sha256(path, ARRAYS, fix=FRESH) != digest:
            problems.append(f"{name} has changed since it was written: its sha256 differs")
    return problems


def is_complete(folder: Path) -> bool:
    """Whether there is a manifest and every file matches it."""
    return (folder / MANIFEST).is_file() and not read_manifest(folder).damage(folder)


def unusable(path: Path, reason: object) -> LeptonError:
    """An error for an artifact file that cannot be read: of the machine where that is the cause."""
    if isinstance(reason, BaseException) and is_of_machine(reason):
        return _machine_error(path, reason)
    text = first_line(reason) if isinstance(reason, BaseException) else reason
    text = f"{reason} is missing" if isinstance(reason, KeyError) else text
    text = reason.what if isinstance(reason, LeptonError) else text
    return ArtifactError(
        f"{path} cannot be used: {text}",
        fix=FRESH,
    )


def _machine_error(path: Path, reason: BaseException) -> LeptonError:
    if isinstance(reason, MachineError):
        return reason
    known = None if isinstance(reason, LeptonError) else machine_error(reason)
    return known or MachineError(
        f"{path} cannot be read: the machine reports {first_line(reason.__cause__ or reason)}",
        fix="check the disk, then run the same command",
    )


def _other_format(folder: Path, found: object) -> DataError:
    return DataError(
        f"{folder} is an artifact of format {found}, made by another version of lepton; this "
        f"version reads format {FORMAT}",
        fix=f"verify it with the lepton that made it, or make it again with this one; its ONNX "
        f"files can be used as they are: lepton predict {folder / INT8} PICTURES",
    )
