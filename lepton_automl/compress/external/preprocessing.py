"""Preprocessing of an external model, from a given file, its metadata or files beside it."""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lepton_automl.compress.external.reader import Signature
from lepton_automl.errors import ConfigError, DataError

_ORDERS = ("RGB", "BGR", "grey")
_FILES = ("preprocessor_config.json", "config.json", "preprocessing.toml", "preprocessing.json")
"""Files beside a model that state it: of Hugging Face, timm, and lepton's own form."""
_EXAMPLE = """scale = 0.003921569
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    order = "RGB\""""
_FIELDS = {"scale", "mean", "std", "order"}


@dataclass(frozen=True)
class Preprocessing:
    """Pixels p from 0 to 255 become (p * scale - mean) / std, per channel."""

    scale: float
    mean: tuple[float, ...]
    """One per channel."""
    std: tuple[float, ...]
    order: str
    """`RGB`, `BGR` or `grey`."""
    source: str
    """Where this is stated, in words."""

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"(pixel * {self.scale:.6g} - [{mean}]) / [{std}], {self.order}, from {self.source}"


def find_preprocessing(
    path: Path, model: ModelProto, signature: Signature, given: Path | None
) -> Preprocessing | None:
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
    if given is not None:
        return _from_fields(_read(given), channels, str(given))
    known = _in_metadata(model, channels) or _beside(path.parent, channels)
    if known is None:
        raise DataError(
            f"{path} does not state its preprocessing, and there is no {' or '.join(_FILES)} "
            "beside it",
            fix="state it in a small file and give it with --preprocessing, for instance\n"
            f"    {_EXAMPLE}\n"
            "  pixels 0 to 255 become (pixel * scale - mean) / std",
        )
    return known


def _read(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text()
        body = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--preprocessing {file}: {error}", fix="give a TOML or JSON file"
        ) from error
    if not isinstance(body, dict):
        raise ConfigError(
            f"--preprocessing {file} holds no fields", fix=f"for instance\n    {_EXAMPLE}"
        )
    return body


def _from_fields(body: Mapping[str, Any], channels: int, source: str) -> Preprocessing:
    unknown = set(body) - _FIELDS
    if unknown:
        raise ConfigError(
            f"{source}: {', '.join(sorted(unknown))} is unknown",
            fix=f"use {', '.join(sorted(_FIELDS))}; for instance\n    {_EXAMPLE}",
        )
    order = body.get("order", "grey" if channels == 1 else "RGB")
    if order not in _ORDERS or (order == "grey") != (channels == 1):
        raise ConfigError(
            f"{source}: order {order!r} does not fit a model with {channels} channels",
            fix="RGB or BGR for 3 channels, grey for 1",
        )
    scale = body.get("scale", 1 / 255)
    if not _is_number(scale) or scale <= 0:
        raise ConfigError(
            f"{source}: scale {scale!r}, the rule is a number above 0",
            fix=f"for instance\n    {_EXAMPLE}",
        )
    mean = _each(body.get("mean", 0.0), "mean", channels, source)
    std = _each(body.get("std", 1.0), "std", channels, source)
    if min(std) <= 0:
        raise ConfigError(
            f"{source}: std {std}, the rule is above 0", fix=f"for instance\n    {_EXAMPLE}"
        )
    return Preprocessing(float(scale), mean, std, order, source)


def _each(value: Any, name: str, channels: int, source: str) -> tuple[float, ...]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * channels
    if len(values) == 1:
        values *= channels
    if len(values) != channels or not all(map(_is_number, values)):
        raise ConfigError(
            f"{source}: {name} {value!r}, the rule is one number or {channels}",
            fix=f"for instance\n    {_EXAMPLE}",
        )
    return tuple(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _in_metadata(model: ModelProto, channels: int) -> Preprocessing | None:
    """From a file's metadata: `mean` and `std`, or the task and names of Ultralytics."""
    words = {item.key: item.value for item in model.metadata_props}
    if words.get("task") == "classify" and "names" in words:
        return _from_fields({}, channels, "the file's metadata (Ultralytics)")
    for mean, std in (("mean", "std"), ("image_mean", "image_std")):
        if mean in words and std in words:
            fields = {"mean": _literal(words[mean]), "std": _literal(words[std])}
            if "scale" in words:
                fields["scale"] = _literal(words["scale"])
            return _from_fields(fields, channels, "the file's metadata")
    return None


def _beside(folder: Path, channels: int) -> Preprocessing | None:
    for name in _FILES:
        file = folder / name
        if not file.is_file():
            continue
        body = _read(file)
        cfg = body.get("pretrained_cfg", body)
        if name.startswith("preprocessing"):
            return _from_fields(body, channels, str(file))
        if "image_mean" in body and "image_std" in body:
            fields = {"mean": body["image_mean"], "std": body["image_std"]}
            fields["scale"] = body.get("rescale_factor", 1 / 255)
            return _from_fields(fields, channels, str(file))
        if isinstance(cfg, dict) and "mean" in cfg and "std" in cfg:
            return _from_fields({"mean": cfg["mean"], "std": cfg["std"]}, channels, str(file))
    return None


def labels_in(model: ModelProto) -> tuple[str, ...] | None:
    """Class names in the file's metadata, in the order of its outputs; None if there are none."""
    words = {item.key: item.value for item in model.metadata_props}
    for key in ("labels", "names", "classes", "class_names"):
        found = _literal(words.get(key, ""))
        if isinstance(found, dict):
            found = [found[number] for number in sorted(found)] if _is_counted(found) else None
        if isinstance(found, (list, tuple)) and found and all(isinstance(n, str) for n in found):
            return tuple(found)
    return None


def _is_counted(names: Mapping[Any, Any]) -> bool:
    return sorted(map(str, names)) == sorted(map(str, range(len(names))))


def _literal(text: str) -> Any:
    """A value written as JSON or as a Python literal; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None
