"""Preprocessing that a configuration of timm states: `pretrained_cfg`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lepton_automl.compress.external.preprocessing import (
    BLACK,
    ExternalPreprocessing,
    Shape,
    check_unknown,
    checked_interpolation,
    checked_share,
    from_fields,
    needed_framing,
    unknown_value,
)
from lepton_automl.data.pictures.framing import Framing, Mode

FIELDS = {
    "mean",
    "std",
    "input_size",
    "test_input_size",
    "min_input_size",
    "fixed_input_size",
    "crop_pct",
    "test_crop_pct",
    "crop_mode",
    "interpolation",
    "pool_size",
}
"""Fields of `pretrained_cfg` that describe pictures."""
_MODES: dict[str, Mode] = {"center": "shortest", "squash": "stretch", "border": "longest"}


def pretrained_cfg(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `pretrained_cfg` of a `config.json`, or the whole where it is one itself."""
    cfg = body.get("pretrained_cfg", body)
    return cfg if isinstance(cfg, dict) else {}


def stated_sides(body: Mapping[str, Any]) -> list[Any] | None:
    """Height and width of `input_size`, unchecked; None where it is not a list of three."""
    shape = body.get("input_size")
    return shape[1:] if isinstance(shape, list) and len(shape) == 3 else None


def from_timm(body: Mapping[str, Any], shape: Shape, source: str) -> ExternalPreprocessing | None:
    """Preprocessing as timm's transforms for evaluation apply a `pretrained_cfg`.

    Parameters
    ----------
    body : Mapping
        The `pretrained_cfg`.
    shape : Shape
        Input of the model.
    source : str
        The file, for messages.

    Returns
    -------
    ExternalPreprocessing or None
        None where `mean` or `std` is missing.

    Raises
    ------
    ConfigError
        If a field is invalid, or may change pixels and is not supported.
    """
    channels, size = shape[0], shape[1:]
    if "mean" not in body or "std" not in body:
        return None
    check_unknown(body, FIELDS, source)
    found = from_fields({"mean": body["mean"], "std": body["std"]}, shape, source)
    crop = body.get("crop_pct")
    if list(size) == (body.get("test_input_size") or [])[1:] != (body.get("input_size") or [])[1:]:
        crop = body.get("test_crop_pct") or crop
    if crop is None and "interpolation" not in body and "crop_mode" not in body:
        return found
    share = checked_share(crop if crop is not None else 0.875, "crop_pct", source)
    mode = body.get("crop_mode") or "center"
    if mode not in _MODES:
        raise unknown_value(source, "crop_mode", mode, _MODES)
    fill = tuple(min(255, max(0, round(255 * value))) for value in found.mean)
    framing = Framing(
        _MODES[mode],
        (math.floor(size[0] / share), math.floor(size[1] / share)),
        checked_interpolation(body.get("interpolation") or "bicubic", "interpolation", source),
        (fill[0], fill[-2], fill[-1]) if mode == "border" and channels == 3 else BLACK,
    )
    return dataclasses.replace(found, framing=needed_framing(framing, size))
