"""Preprocessing that a configuration of Hugging Face's image processors states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lepton_automl.compress.external.preprocessing import (
    BLACK,
    EXAMPLE,
    ExternalPreprocessing,
    Shape,
    Size,
    check_unknown,
    checked_interpolation,
    checked_share,
    from_fields,
    is_side,
    needed_framing,
)
from lepton_automl.compress.external.timm_config import from_timm, pretrained_cfg
from lepton_automl.data.pictures.framing import Framing, Mode
from lepton_automl.errors import ConfigError

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
_FIELDS = {
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
_CONVNEXT_WHOLE = 384
"""Pixels from which on ConvNeXt's processor resizes without regard to the picture's shape."""


def from_hugging_face(
    body: Mapping[str, Any], shape: Shape, source: str
) -> ExternalPreprocessing | None:
    """Preprocessing as the image processors of Hugging Face apply a configuration.

    Parameters
    ----------
    body : Mapping
        Content of a `preprocessor_config.json`, or the `image_processor` of a processor's.
    shape : Shape
        Input of the model.
    source : str
        The file, for messages.

    Raises
    ------
    ConfigError
        If a field is invalid, or may change pixels and is not supported.
    """
    if "pretrained_cfg" in body:
        return from_timm(pretrained_cfg(body), shape, source)
    check_unknown(body, _FIELDS, source)
    rescales, has_mean = body.get("do_rescale", True), "image_mean" in body
    normalizes = body.get("do_normalize")
    normalizes = has_mean if normalizes is None else normalizes
    if normalizes and not (has_mean and "image_std" in body):
        raise ConfigError(
            f"{source}: do_normalize is on, but image_mean or image_std is missing",
            fix=f"add them, or give --preprocessing with\n    {EXAMPLE}",
        )
    fields: dict[str, Any] = {
        "scale": body.get("rescale_factor", 1 / 255) if rescales else 1.0,
        "mean": body["image_mean"] if normalizes else 0.0,
        "std": body["image_std"] if normalizes else 1.0,
    }
    if body.get("do_flip_channel_order") and shape[0] == 3:
        fields["order"] = "BGR"
    found = from_fields(fields, shape, source)
    if rescales and body.get("rescale_offset"):
        found = dataclasses.replace(found, mean=tuple(mean + 1 for mean in found.mean))
    if normalizes and body.get("include_top"):  # EfficientNet divides once more.
        found = dataclasses.replace(found, std=tuple(std * std for std in found.std))
    return dataclasses.replace(found, framing=_framing(body, shape[1:], source))


def stated_sides(body: Mapping[str, Any]) -> list[int] | None:
    """Height and width of a model's pictures; None where the configuration does not state them."""
    cropped = _sides(body.get("crop_size")) if _is_cropped(body) else None
    return cropped or _sides(body.get("size"))


def _framing(body: Mapping[str, Any], size: Size, source: str) -> Framing | None:
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
        mode, edge, checked_interpolation(filters, "resample", source), BLACK, rounds_down=True
    )
    return needed_framing(framing, size)


def _edge(given: Any, name: str, body: Mapping[str, Any], source: str) -> tuple[Size, Mode]:
    """Height and width to which pictures are resized, and whether their shape stays."""
    if isinstance(given, dict) and set(given) == {"shortest_edge"}:
        given, mode = given["shortest_edge"], "shortest"
    else:
        is_short = name.startswith(_SHORTEST_EDGE) or body.get("default_to_square") is False
        mode = "shortest" if is_short and is_side(given) else "stretch"
    sides = _sides(given)
    if sides is None:
        raise ConfigError(
            f"{source}: size {given!r} is unknown",
            fix="use height and width, or shortest_edge; or state the preprocessing in a file of "
            "your own and give it with --preprocessing",
        )
    return (sides[0], sides[1]), "shortest" if mode == "shortest" else "stretch"


def _cropped(
    edge: Size, mode: Mode, name: str, body: Mapping[str, Any], source: str
) -> tuple[Size, list[int] | None, Mode]:
    """Size after resizing, size of the centre crop, and whether the shape stays."""
    crop = _sides(body.get("crop_size")) if _is_cropped(body) else None
    share = body.get("crop_pct")
    if name.startswith("ConvNext") and mode == "shortest":
        crop = list(edge)
        mode = "stretch" if edge[0] >= _CONVNEXT_WHOLE else mode
        share = None if mode == "stretch" else 0.875 if share is None else share
    elif share is not None and crop is None:
        crop, mode = list(edge), "shortest"
    if share is not None:
        part = checked_share(share, "crop_pct", source)
        edge = int(edge[0] / part), int(edge[1] / part)
    if mode == "shortest":
        crop = crop or list(edge)
        if name.startswith("Levit"):
            edge = int(edge[0] * 256 / 224), int(edge[1] * 256 / 224)
    return edge, crop, mode


def _is_cropped(body: Mapping[str, Any]) -> bool:
    return bool(body.get("do_center_crop", "crop_size" in body)) and "crop_size" in body


def _sides(value: Any) -> list[int] | None:
    """Height and width in any of the forms of `size` and `crop_size`."""
    if isinstance(value, dict):
        if set(value) == {"shortest_edge"}:
            value = value["shortest_edge"]
        else:
            value = [value.get("height"), value.get("width")]
    value = [value, value] if isinstance(value, int) else value
    if isinstance(value, list) and len(value) == 2 and all(map(is_side, value)):
        return value
    return None
