"""Fits a space to the data: which resolution, and how far strides may shrink a map."""

from __future__ import annotations

from lepton_automl.builder import Builder
from lepton_automl.layers import Layer
from lepton_automl.space.file import Parameter, Scalar
from lepton_automl.space.trial import with_stride

_MIN_MAP_SIDE = 4
"""No stride makes a feature map smaller than this many rows or columns."""
_DEFAULT_SIDE = 64
"""Side in pixels where pictures vary and the space names no size."""


def input_size(side: Scalar, knob: Parameter, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width to use; data are never enlarged, and keep their shape if they have one.

    "native" is the data's own size up to the largest listed one, and that one where pictures vary.
    """
    listed = [value for value in knob.values if isinstance(value, int)]
    limit = side if isinstance(side, int) else max(listed, default=None)
    if size is None:
        return (limit or _DEFAULT_SIDE, limit or _DEFAULT_SIDE)
    longest = max(size)
    if limit is None or limit >= longest:
        return size
    return (max(1, round(size[0] * limit / longest)), max(1, round(size[1] * limit / longest)))


def fit_to_input(input: tuple[int, int, int], layers: list[Layer]) -> list[Layer]:
    """The layers with strides lowered where a map would become too small.

    One without a width (a pooling) that may not stride is left out.
    """
    height, width, channels = input
    kept: list[Layer] = []
    for layer in layers:
        one = _fit(layer, height, width, channels)
        if one is not None:
            kept.append(one)
            height, width, channels = _output(one, height, width, channels)
    return kept


def _fit(layer: Layer, height: int, width: int, channels: int) -> Layer | None:
    fields = layer.searchable_fields()
    if "stride" not in fields:
        return layer
    fits = min(_output(layer, height, width, channels)[:2]) >= min(_MIN_MAP_SIDE, height, width)
    if fits:
        return layer
    if not any(about["kind"] == "width" for about in fields.values()):
        return None
    lower = [n for n in fields["stride"]["choices"] if n < layer.stride]  # type: ignore[attr-defined]
    return _fit(with_stride(layer, max(lower)), height, width, channels) if lower else layer


def _output(layer: Layer, height: int, width: int, channels: int) -> tuple[int, int, int]:
    build = Builder(height, width, channels)
    build.begin_layer(0, layer)
    value = layer.with_input_channels(channels).lower(build, build.input)
    return (value.height, value.width, value.channels)
