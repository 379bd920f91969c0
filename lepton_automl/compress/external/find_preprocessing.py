"""Find the preprocessing of an external model: in a given file, its metadata, files beside it."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lepton_automl.compress.external import hugging_face_config, timm_config
from lepton_automl.compress.external.preprocessing import (
    EXAMPLE,
    FIELDS,
    ExternalPreprocessing,
    Shape,
    Size,
    from_fields,
    is_side,
)
from lepton_automl.compress.external.reader import Signature
from lepton_automl.core import untrusted_files
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.errors import ConfigError, DataError

_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "config.json",
    "preprocessing.toml",
    "preprocessing.json",
)
"""Files beside a model that state it: of Hugging Face, timm, and lepton's own form."""
_MAX_LITERAL = 1 << 20
"""Characters of a value in metadata that is read."""


def find_preprocessing(
    path: Path, model: ModelProto, signature: Signature, given: Path | None
) -> ExternalPreprocessing | None:
    """The preprocessing of a model; None where it takes uint8 pixels.

    Parameters
    ----------
    path, model, signature
        The model.
    given : Path, optional
        A TOML or JSON file with `scale`, `mean`, `std` and `order`.

    Raises
    ------
    ConfigError
        If the file cannot be used, or has no effect.
    DataError
        If it is stated nowhere.
    """
    channels = signature.channels
    if signature.is_bytes:
        if given is not None:
            raise ConfigError(
                f"--preprocessing {given} has no effect: the model takes uint8 pixels",
                fix="leave it out",
            )
        return None
    shape = (channels, signature.height, signature.width)
    if given is not None:
        body = _read(given)
        found = _interpreted(body, shape, str(given)) or from_fields(body, shape, str(given))
        return dataclasses.replace(found, is_option=True)
    known = _in_metadata(model, shape) or _beside(path, shape)
    if known is None:
        raise DataError(
            f"{path} does not state its preprocessing, and there is no {' or '.join(_FILES)} "
            "beside it",
            fix="state it in a small file and give it with --preprocessing, for instance\n"
            f"    {EXAMPLE}\n"
            "  pixels 0 to 255 become (pixel * scale - mean) / std",
        )
    return known


def stated_size(path: Path, given: Path | None) -> Size | None:
    """Height and width that the file of --preprocessing or a file beside the model states."""
    found: Any
    for file in config_files(path) if given is None else [given]:
        body = _read(file)
        kind = _kind(body)
        if kind == "timm":
            found = timm_config.stated_sides(timm_config.pretrained_cfg(body))
        elif kind == "Hugging Face":
            found = hugging_face_config.stated_sides(body.get("image_processor", body))
        else:
            found = body.get("size", body.get("image_size"))
        found = [found, found] if isinstance(found, int) else found
        if isinstance(found, list) and len(found) == 2 and all(map(is_side, found)):
            return found[0], found[1]
    return None


def config_files(path: Path) -> list[Path]:
    """Known files beside a model; for `onnx/model.onnx` also those of the folder above."""
    folders = [path.parent, *([path.absolute().parent.parent] if _is_nested(path) else [])]
    return [folder / name for folder in folders for name in _FILES if (folder / name).is_file()]


def _is_nested(path: Path) -> bool:
    return path.absolute().parent.name == "onnx"


def _read(file: Path) -> Mapping[str, Any]:
    fix = f"give a TOML or JSON file with fields, for instance\n    {EXAMPLE}"
    if file.suffix != ".json":
        return untrusted_files.read_toml(file, fix=fix, error=ConfigError)
    body: dict[str, Any] = untrusted_files.read_json(file, fix=fix, top=dict, error=ConfigError)
    return body


def _kind(body: Mapping[str, Any]) -> str:
    """Whose form a file has: `timm`, `Hugging Face`, `lepton`, or `` for another one."""
    inner = body.get("image_processor", body)
    if isinstance(body.get("pretrained_cfg"), dict) or timm_config.FIELDS & body.keys() >= {
        "mean",
        "std",
    }:
        if body.keys() <= FIELDS:
            return "lepton"
        return "timm"
    if not isinstance(inner, dict):
        return ""
    marks = {"image_processor_type", "feature_extractor_type", "image_mean", "do_rescale"}
    if marks & inner.keys() or any(key.startswith("do_") for key in inner):
        return "Hugging Face"
    return "lepton" if body.keys() & {"scale", "mean", "std", "order"} else ""


def _interpreted(
    body: Mapping[str, Any], shape: Shape, source: str
) -> ExternalPreprocessing | None:
    """What a file states, whatever its form; None if it says nothing of pixels."""
    kind = _kind(body)
    if kind == "timm":
        return timm_config.from_timm(timm_config.pretrained_cfg(body), shape, source)
    if kind == "Hugging Face":
        return hugging_face_config.from_hugging_face(
            body.get("image_processor", body), shape, source
        )
    is_own = kind == "lepton" or Path(source).name.startswith("preprocessing")
    return from_fields(body, shape, source) if is_own or not body else None


def _in_metadata(model: ModelProto, shape: Shape) -> ExternalPreprocessing | None:
    """From a file's metadata: `mean` and `std`, or the task and names of Ultralytics."""
    words = {item.key: item.value for item in model.metadata_props}
    if words.get("task") == "classify" and "names" in words:
        found = from_fields({}, shape, "the file's metadata (Ultralytics)")
        return dataclasses.replace(found, framing=Framing("shortest", shape[1:]))
    for mean, std in (("mean", "std"), ("image_mean", "image_std")):
        if mean in words and std in words:
            fields = {"mean": literal(words[mean]), "std": literal(words[std])}
            if "scale" in words:
                fields["scale"] = literal(words["scale"])
            return from_fields(fields, shape, "the file's metadata")
    return None


def _beside(path: Path, shape: Shape) -> ExternalPreprocessing | None:
    """What the first of the files beside a model states.

    Raises
    ------
    ConfigError
        If two of them state something else.
    """
    found: list[ExternalPreprocessing] = []
    for file in config_files(path):
        known = _interpreted(_read(file), shape, str(file))
        if known is not None:
            found.append(known)
    for other in found[1:]:
        if _pixels(other) != _pixels(found[0]):
            raise ConfigError(
                f"two files state different preprocessing: {found[0]}; {other}",
                fix=f"remove one, or name the right one: --preprocessing {found[0].source}",
            )
    return found[0] if found else None


def _pixels(known: ExternalPreprocessing) -> tuple[object, ...]:
    return tuple(round(v, 4) for v in (*known.mean, *known.std, known.scale * 255)), known.order


def literal(text: str) -> Any:
    """A value written as JSON or as a Python literal; None where it is neither."""
    if len(text) > _MAX_LITERAL:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None
