"""Preprocessing of an external model, from a given file, its metadata or files beside it."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lepton_automl.compress.external.reader import Signature
from lepton_automl.core import untrusted_files
from lepton_automl.data.framing import INTERPOLATIONS, Framing, Mode
from lepton_automl.errors import ConfigError, DataError

Size = tuple[int, int]
"""Height and width, pixels."""
Shape = tuple[int, int, int]
"""Channels, height, width."""

_ORDERS = ("RGB", "BGR", "grey")
_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "config.json",
    "preprocessing.toml",
    "preprocessing.json",
)
"""Files beside a model that state it: of Hugging Face, timm, and lepton's own form."""
_EXAMPLE = """scale = 0.003921569
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    order = "RGB\""""
_FIELDS = {"scale", "mean", "std", "order", "size", "resize", "interpolation"}
_RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters, which Hugging Face stores as `resample`."""
_SHORTEST_EDGE = (
    "ConvNext",
    "Bit",
    "CLIP",
    "Levit",
    "MobileNet",
    "MobileViT",
    "PoolFormer",
    "Perceiver",
)
"""Image processors of Hugging Face for which `size`, one number, is the shorter edge."""
_TIMM_FIELDS = {
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
_HF_FIELDS = {
    "do_resize",
    "size",
    "resample",
    "default_to_square",
    "do_center_crop",
    "crop_size",
    "crop_pct",
    "do_rescale",
    "rescale_factor",
    "rescale_offset",
    "do_normalize",
    "image_mean",
    "image_std",
    "include_top",
    "do_flip_channel_order",
    "do_convert_rgb",
    "do_reduce_labels",
    "reduce_labels",
    "input_data_format",
    "data_format",
    "size_divisor",
}
_IGNORED = {"do_convert_rgb", "do_reduce_labels", "reduce_labels"}
"""Without effect on the class of an RGB picture."""
_MAX_LITERAL = 1 << 20
"""Characters of a value in metadata that is read."""
_PIXEL_WORDS = (
    "size|crop|pad|mean|std|scale|resample|interp|colou?r|channel|rotat|flip|gamma|contrast|bright"
    "|offset|norm|mask|resiz|thumb|align|antialias|fill|gr[ae]y|invert|augment|transform|align"
)


@dataclass(frozen=True)
class Preprocessing:
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
    shape = (channels, signature.height, signature.width)
    if given is not None:
        body = _read(given)
        found = _interpreted(body, shape, str(given)) or _from_fields(body, shape, str(given))
        return dataclasses.replace(found, is_option=True)
    known = _in_metadata(model, shape) or _beside(path, shape)
    if known is None:
        raise DataError(
            f"{path} does not state its preprocessing, and there is no {' or '.join(_FILES)} "
            "beside it",
            fix="state it in a small file and give it with --preprocessing, for instance\n"
            f"    {_EXAMPLE}\n"
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
            cfg = _timm(body)
            sides = cfg.get("input_size")
            found = sides[1:] if isinstance(sides, list) and len(sides) == 3 else None
        elif kind == "Hugging Face":
            inner = body.get("image_processor", body)
            found = _hf_sides(inner, "crop_size", square=True) if _crops(inner) else None
            found = found or _hf_sides(inner, "size", square=True)
        else:
            found = body.get("size", body.get("image_size"))
        found = [found, found] if isinstance(found, int) else found
        if isinstance(found, list) and len(found) == 2 and all(map(_is_side, found)):
            return found[0], found[1]
    return None


def config_files(path: Path) -> list[Path]:
    """Known files beside a model; for `onnx/model.onnx` also those of the folder above."""
    folders = [path.parent, *([path.absolute().parent.parent] if _is_nested(path) else [])]
    return [folder / name for folder in folders for name in _FILES if (folder / name).is_file()]


def _is_nested(path: Path) -> bool:
    return path.absolute().parent.name == "onnx"


def _read(file: Path) -> Mapping[str, Any]:
    fix = f"give a TOML or JSON file with fields, for instance\n    {_EXAMPLE}"
    if file.suffix != ".json":
        return untrusted_files.read_toml(file, fix=fix, error=ConfigError)
    body: dict[str, Any] = untrusted_files.read_json(file, fix=fix, top=dict, error=ConfigError)
    return body


def _kind(body: Mapping[str, Any]) -> str:
    """Whose form a file has: `timm`, `Hugging Face`, `lepton`, or `` for another one."""
    inner = body.get("image_processor", body)
    if isinstance(body.get("pretrained_cfg"), dict) or _TIMM_FIELDS & body.keys() >= {
        "mean",
        "std",
    }:
        if body.keys() <= _FIELDS:
            return "lepton"
        return "timm"
    if not isinstance(inner, dict):
        return ""
    marks = {"image_processor_type", "feature_extractor_type", "image_mean", "do_rescale"}
    if marks & inner.keys() or any(key.startswith("do_") for key in inner):
        return "Hugging Face"
    return "lepton" if body.keys() & {"scale", "mean", "std", "order"} else ""


def _interpreted(body: Mapping[str, Any], shape: Shape, source: str) -> Preprocessing | None:
    """What a file states, whatever its form; None if it says nothing of pixels."""
    kind = _kind(body)
    if kind == "timm":
        return _from_timm(_timm(body), shape, source)
    if kind == "Hugging Face":
        return _from_hugging_face(body.get("image_processor", body), shape, source)
    is_own = kind == "lepton" or Path(source).name.startswith("preprocessing")
    return _from_fields(body, shape, source) if is_own or not body else None


def _timm(body: Mapping[str, Any]) -> Mapping[str, Any]:
    cfg = body.get("pretrained_cfg", body)
    return cfg if isinstance(cfg, dict) else {}


def _from_timm(body: Mapping[str, Any], shape: Shape, source: str) -> Preprocessing | None:
    """`pretrained_cfg` as timm's transforms for evaluation apply it."""
    channels, size = shape[0], shape[1:]
    if "mean" not in body or "std" not in body:
        return None
    _check_unknown(body, _TIMM_FIELDS, source)
    found = _from_fields({"mean": body["mean"], "std": body["std"]}, shape, source)
    crop = body.get("crop_pct")
    if list(size) == (body.get("test_input_size") or [])[1:] != (body.get("input_size") or [])[1:]:
        crop = body.get("test_crop_pct") or crop
    if crop is None and "interpolation" not in body and "crop_mode" not in body:
        return found
    share = _positive(crop if crop is not None else 0.875, "crop_pct", source)
    mode = body.get("crop_mode") or "center"
    if mode not in _TIMM_MODES:
        raise _unknown_value(source, "crop_mode", mode, _TIMM_MODES)
    fill = tuple(min(255, max(0, round(255 * value))) for value in found.mean)
    framing = Framing(
        _TIMM_MODES[mode],
        (math.floor(size[0] / share), math.floor(size[1] / share)),
        _interpolation(body.get("interpolation") or "bicubic", "interpolation", source),
        (fill[0], fill[-2], fill[-1]) if mode == "border" and channels == 3 else _BLACK,
    )
    return dataclasses.replace(found, framing=_needed(framing, size))


_TIMM_MODES: dict[str, Mode] = {"center": "shortest", "squash": "stretch", "border": "longest"}
_BLACK = (0, 0, 0)


def _from_hugging_face(body: Mapping[str, Any], shape: Shape, source: str) -> Preprocessing | None:
    """A `preprocessor_config.json` as image processors of Hugging Face apply it."""
    if "pretrained_cfg" in body:
        return _from_timm(_timm(body), shape, source)
    _check_unknown(body, _HF_FIELDS, source)
    rescales, has_mean = body.get("do_rescale", True), "image_mean" in body
    normalizes = body.get("do_normalize")
    normalizes = has_mean if normalizes is None else normalizes
    if normalizes and not (has_mean and "image_std" in body):
        raise ConfigError(
            f"{source}: do_normalize is on, but image_mean or image_std is missing",
            fix=f"add them, or give --preprocessing with\n    {_EXAMPLE}",
        )
    fields: dict[str, Any] = {
        "scale": body.get("rescale_factor", 1 / 255) if rescales else 1.0,
        "mean": body["image_mean"] if normalizes else 0.0,
        "std": body["image_std"] if normalizes else 1.0,
    }
    if body.get("do_flip_channel_order") and shape[0] == 3:
        fields["order"] = "BGR"
    found = _from_fields(fields, shape, source)
    if rescales and body.get("rescale_offset"):
        found = dataclasses.replace(found, mean=tuple(mean + 1 for mean in found.mean))
    if normalizes and body.get("include_top"):  # EfficientNet divides once more.
        found = dataclasses.replace(found, std=tuple(std * std for std in found.std))
    return dataclasses.replace(found, framing=_hf_framing(body, shape[1:], source))


def _hf_framing(body: Mapping[str, Any], size: Size, source: str) -> Framing | None:
    """Resizing and centre crop of Hugging Face's image processors, scaled to the model's size."""
    name = str(body.get("image_processor_type") or body.get("feature_extractor_type") or "")
    given = body.get("size")
    if given is None or body.get("do_resize") is False:
        return None
    edge, mode = _edge(given, name, body, source)
    edge, crop, mode = _cropped(edge, mode, name, body, source)
    if crop is not None and crop != list(size):  # Exported at another size: the same share.
        edge = round(edge[0] * size[0] / crop[0]), round(edge[1] * size[1] / crop[1])
    elif crop is None:
        edge = size
    filters = body.get("resample", 2)
    framing = Framing(
        mode, edge, _interpolation(filters, "resample", source), _BLACK, rounds_down=True
    )
    return _needed(framing, size)


def _cropped(
    edge: Size, mode: Mode, name: str, body: Mapping[str, Any], source: str
) -> tuple[Size, list[int] | None, Mode]:
    """Size after resizing, size of the centre crop, and whether the shape stays."""
    crop = _hf_sides(body, "crop_size", square=True) if _crops(body) else None
    share = body.get("crop_pct")
    if name.startswith("ConvNext") and mode == "shortest":
        crop = list(edge)
        # From 384 on the picture is resized without regard to its shape.
        mode = "stretch" if edge[0] >= _CONVNEXT_WHOLE else mode
        share = None if mode == "stretch" else 0.875 if share is None else share
    elif share is not None and crop is None:
        crop, mode = list(edge), "shortest"
    if share is not None:
        part = _positive(share, "crop_pct", source)
        edge = int(edge[0] / part), int(edge[1] / part)
    if mode == "shortest":
        crop = crop or list(edge)
        if name.startswith("Levit"):
            edge = int(edge[0] * 256 / 224), int(edge[1] * 256 / 224)
    return edge, crop, mode


_CONVNEXT_WHOLE = 384


def _edge(given: Any, name: str, body: Mapping[str, Any], source: str) -> tuple[Size, Mode]:
    """Height and width to which pictures are resized, and whether their shape stays."""
    if isinstance(given, dict) and set(given) == {"shortest_edge"}:
        given, mode = given["shortest_edge"], "shortest"
    else:
        is_short = name.startswith(_SHORTEST_EDGE) or body.get("default_to_square") is False
        mode = "shortest" if is_short and _is_side(given) else "stretch"
    sides = _hf_sides({"size": given}, "size", square=True)
    if sides is None:
        raise ConfigError(
            f"{source}: size {given!r} is unknown",
            fix="use height and width, or shortest_edge; or state the preprocessing in a file of "
            "your own and give it with --preprocessing",
        )
    return (sides[0], sides[1]), "shortest" if mode == "shortest" else "stretch"


def _crops(body: Mapping[str, Any]) -> bool:
    return bool(body.get("do_center_crop", "crop_size" in body)) and "crop_size" in body


def _hf_sides(body: Mapping[str, Any], key: str, *, square: bool) -> list[int] | None:
    value = body.get(key)
    if isinstance(value, dict):
        if square and set(value) == {"shortest_edge"}:
            value = value["shortest_edge"]
        else:
            value = [value.get("height"), value.get("width")]
    value = [value, value] if isinstance(value, int) else value
    if isinstance(value, list) and len(value) == 2 and all(map(_is_side, value)):
        return value
    return None


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIDE


_MAX_SIDE = 8192


def _needed(framing: Framing, size: Size) -> Framing | None:
    """None where the framing is what happens without one."""
    is_plain = framing.mode == "stretch" and framing.size == tuple(size)
    return None if is_plain and framing.interpolation == "bilinear" else framing


def _positive(value: Any, name: str, source: str) -> float:
    if not _is_number(value) or not 0.05 <= value <= 20:
        raise ConfigError(
            f"{source}: {name} {value!r}, the rule is a share such as 0.875",
            fix="correct it, or state the preprocessing in a file of your own (--preprocessing)",
        )
    return float(value)


def _interpolation(value: Any, name: str, source: str) -> str:
    if isinstance(value, int) and 0 <= value < len(_RESAMPLINGS):
        return _RESAMPLINGS[value]
    if value not in INTERPOLATIONS:
        raise _unknown_value(source, name, value, INTERPOLATIONS)
    return str(value)


def _unknown_value(source: str, name: str, value: Any, known: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"{source}: {name} {value!r} is not supported",
        fix=f"known are {', '.join(known)}; state the preprocessing in a file of your own with the "
        "nearest of them and give it with --preprocessing",
    )


def _check_unknown(body: Mapping[str, Any], known: set[str], source: str) -> None:
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
            f"--preprocessing, for instance\n    {_EXAMPLE}",
        )


def _from_fields(body: Mapping[str, Any], shape: Shape, source: str) -> Preprocessing:
    channels = shape[0]
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
    return Preprocessing(
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
    interpolation = _interpolation(body.get("interpolation", "bilinear"), "interpolation", source)
    resize = body.get("resize", list(size))
    mode: Mode = "shortest" if _is_side(resize) else "stretch"
    sides = [resize, resize] if _is_side(resize) else resize
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_side, sides)):
        raise ConfigError(
            f"{source}: resize {resize!r}, the rule is one number (the shorter side) or two",
            fix="for instance resize = 256",
        )
    return _needed(Framing(mode, (sides[0], sides[1]), interpolation), size)


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


def _in_metadata(model: ModelProto, shape: Shape) -> Preprocessing | None:
    """From a file's metadata: `mean` and `std`, or the task and names of Ultralytics."""
    words = {item.key: item.value for item in model.metadata_props}
    if words.get("task") == "classify" and "names" in words:
        found = _from_fields({}, shape, "the file's metadata (Ultralytics)")
        return dataclasses.replace(found, framing=Framing("shortest", shape[1:]))
    for mean, std in (("mean", "std"), ("image_mean", "image_std")):
        if mean in words and std in words:
            fields = {"mean": literal(words[mean]), "std": literal(words[std])}
            if "scale" in words:
                fields["scale"] = literal(words["scale"])
            return _from_fields(fields, shape, "the file's metadata")
    return None


def _beside(path: Path, shape: Shape) -> Preprocessing | None:
    """What the first of the files beside a model states.

    Raises
    ------
    ConfigError
        If two of them state something else.
    """
    found: list[Preprocessing] = []
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


def _pixels(known: Preprocessing) -> tuple[object, ...]:
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
