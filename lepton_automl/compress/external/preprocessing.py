"""Preprocessing of an external model: its pixel rule, and lepton's own fields that state it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_automl.data.pictures.framing import INTERPOLATIONS, Framing, Mode
from lepton_automl.errors import ConfigError

Size = tuple[int, int]
"""Height and width, pixels."""
Shape = tuple[int, int, int]
"""Channels, height, width."""
_ORDERS = ("RGB", "BGR", "grey")
EXAMPLE = """scale = 0.003921569
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    order = "RGB\""""
"""Content of a file for --preprocessing, shown in messages."""
FIELDS = {"scale", "mean", "std", "order", "size", "resize", "interpolation"}
"""Fields of lepton's own form."""
_RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters, which Hugging Face stores as `resample`."""
_IGNORED = {"do_convert_rgb", "do_reduce_labels", "reduce_labels"}
"""Without effect on the class of an RGB picture."""
_PIXEL_WORDS = (
    "size|crop|pad|mean|std|scale|resample|interp|colou?r|channel|rotat|flip|gamma|contrast|bright"
    "|offset|norm|mask|resiz|thumb|align|antialias|fill|gr[ae]y|invert|augment|transform|align"
)
_MAX_SIDE = 8192
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class ExternalPreprocessing:
    """Pixels p from 0 to 255 become (p * scale - mean) / std, per channel."""

    scale: float
    mean: tuple[float, ...]
    """One per channel, in the order of `order`."""
    std: tuple[float, ...]
    order: str
    """`RGB`, `BGR` or `grey`."""
    source: str
    """Where this is stated, in words."""
    framing: Framing | None = None
    """How pictures get the size of the model; None: resized without regard to their shape."""
    is_option: bool = False
    """Whether the user gave it with --preprocessing."""

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        text = f"(pixel * {self.scale:.6g} - [{mean}]) / [{std}], {self.order}"
        text += "" if self.framing is None else f", {self.framing}"
        return f"{text}, from {self.source}"


def from_fields(body: Mapping[str, Any], shape: Shape, source: str) -> ExternalPreprocessing:
    """Preprocessing that lepton's own fields state; those left out have usual values.

    Parameters
    ----------
    body : Mapping
        Values of `FIELDS`.
    shape : Shape
        Input of the model.
    source : str
        Where they are stated, for messages.

    Raises
    ------
    ConfigError
        If a field is unknown or its value invalid.
    """
    channels = shape[0]
    unknown = set(body) - FIELDS
    if unknown:
        raise ConfigError(
            f"{source}: {', '.join(sorted(unknown))} is unknown",
            fix=f"use {', '.join(sorted(FIELDS))}; for instance\n    {EXAMPLE}",
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
            fix=f"for instance\n    {EXAMPLE}",
        )
    mean = _each(body.get("mean", 0.0), "mean", channels, source)
    std = _each(body.get("std", 1.0), "std", channels, source)
    if min(std) <= 0:
        raise ConfigError(
            f"{source}: std {std}, the rule is above 0", fix=f"for instance\n    {EXAMPLE}"
        )
    return ExternalPreprocessing(
        float(scale), mean, std, order, source, _own_framing(body, shape[1:], source)
    )


def _own_framing(body: Mapping[str, Any], size: Size, source: str) -> Framing | None:
    """`resize`: one number is the shorter side, two are height and width."""
    wanted = body.get("size", list(size))
    if wanted not in (list(size), size[0]):
        raise ConfigError(
            f"{source}: size {wanted!r}, the model takes {size[0]}x{size[1]}",
            fix="leave size out, or give a model whose height and width are free",
        )
    interpolation = checked_interpolation(
        body.get("interpolation", "bilinear"), "interpolation", source
    )
    resize = body.get("resize", list(size))
    mode: Mode = "shortest" if is_side(resize) else "stretch"
    sides = [resize, resize] if is_side(resize) else resize
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(is_side, sides)):
        raise ConfigError(
            f"{source}: resize {resize!r}, the rule is one number (the shorter side) or two",
            fix="for instance resize = 256",
        )
    return needed_framing(Framing(mode, (sides[0], sides[1]), interpolation), size)


def needed_framing(framing: Framing, size: Size) -> Framing | None:
    """None where the framing is what happens without one."""
    is_plain = framing.mode == "stretch" and framing.size == tuple(size)
    return None if is_plain and framing.interpolation == "bilinear" else framing


def check_unknown(body: Mapping[str, Any], known: set[str], source: str) -> None:
    """Refuse fields that change pixels and are not honoured."""
    unknown = [
        key
        for key, value in body.items()
        if key not in known | _IGNORED
        and value not in (None, False)
        and (key.startswith("do_") or re.search(_PIXEL_WORDS, key.lower()))
    ]
    if unknown:
        fields = ", ".join(f"{key} = {body[key]!r}" for key in sorted(unknown))
        raise ConfigError(
            f"{source}: {fields} may change pixels and is not supported",
            fix="state what pictures look like in the end in a file of your own and give it with "
            f"--preprocessing, for instance\n    {EXAMPLE}",
        )


def checked_interpolation(value: Any, name: str, source: str) -> str:
    """Name of a filter, given by name or by Pillow's number."""
    if isinstance(value, int) and 0 <= value < len(_RESAMPLINGS):
        return _RESAMPLINGS[value]
    if value not in INTERPOLATIONS:
        raise unknown_value(source, name, value, INTERPOLATIONS)
    return str(value)


def unknown_value(source: str, name: str, value: Any, known: Iterable[str]) -> ConfigError:
    """The error of a field whose value is none of the known ones."""
    return ConfigError(
        f"{source}: {name} {value!r} is not supported",
        fix=f"known are {', '.join(known)}; state the preprocessing in a file of your own with the "
        "nearest of them and give it with --preprocessing",
    )


def checked_share(value: Any, name: str, source: str) -> float:
    """Share of a picture's side that a crop keeps."""
    if not _is_number(value) or not 0.05 <= value <= 20:
        raise ConfigError(
            f"{source}: {name} {value!r}, the rule is a share such as 0.875",
            fix="correct it, or state the preprocessing in a file of your own (--preprocessing)",
        )
    return float(value)


def _each(value: Any, name: str, channels: int, source: str) -> tuple[float, ...]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * channels
    if len(values) == 1:
        values *= channels
    if len(values) != channels or not all(map(_is_number, values)):
        raise ConfigError(
            f"{source}: {name} {value!r}, the rule is one number or {channels}",
            fix=f"for instance\n    {EXAMPLE}",
        )
    return tuple(map(float, values))


def is_side(value: Any) -> bool:
    """Whether a value is a valid height or width, pixels."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIDE


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
