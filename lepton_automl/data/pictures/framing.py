"""How a picture of any size becomes one of the size of a net: resizing, then a centre crop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from PIL import Image

from lepton_automl.core import untrusted_files

Mode = Literal["stretch", "shortest", "longest"]
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class Framing:
    """Resizing of a picture and the centre crop to the size of the net, which may also pad."""

    mode: Mode
    """`stretch`: to `size`, without regard to the aspect ratio. `shortest`, `longest`: with the
    aspect ratio, so that `size` is covered, or that the picture fits into it."""
    size: tuple[int, int]
    """Height and width, pixels."""
    interpolation: str = "bilinear"
    """A key of `INTERPOLATIONS`."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """RGB colour around a picture that is smaller than the crop."""
    rounds_down: bool = False
    """Whether half a pixel of the crop's corner is rounded down (Hugging Face) or to even."""

    def apply(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """A picture of `size` (height, width) from an image in mode L or RGB."""
        image = _without_far_ends(image)
        height, width = self._resized(image.size[1], image.size[0])
        if image.size != (width, height):
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        if (height, width) == size:
            return image
        left, top = (self._corner(a, b) for a, b in zip((width, height), size[::-1], strict=True))
        fill: int | tuple[int, int, int] = self.fill[0] if image.mode == "L" else self.fill
        made = Image.new(image.mode, size[::-1], fill)
        made.paste(image, (-left, -top))
        return made

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.mode == "stretch":
            return self.size
        if self.mode == "shortest" and self.size[0] == self.size[1]:
            # As torchvision and Hugging Face: the longer side is truncated.
            side, short, long = self.size[0], min(height, width), max(height, width)
            other = int(side * long / short)
            return (side, other) if height <= width else (other, side)
        ratios = height / self.size[0], width / self.size[1]
        ratio = min(ratios) if self.mode == "shortest" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _corner(self, whole: int, part: int) -> int:
        return (whole - part) // 2 if self.rounds_down else round((whole - part) / 2)

    def to_json(self) -> str:
        """One line of JSON, for the metadata of an ONNX file."""
        body = {"mode": self.mode, "size": self.size, "interpolation": self.interpolation}
        return json.dumps(body | {"fill": self.fill, "rounds_down": self.rounds_down})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        DataError, ValueError, TypeError, KeyError
            If it is something else.
        """
        fix = "give an ONNX file that lepton wrote"
        body = untrusted_files.parse_json(text, "how pictures are resized", fix=fix, top=dict)
        if body["mode"] not in ("stretch", "shortest", "longest"):
            raise ValueError(f"the mode {body['mode']!r} is unknown")
        if body["interpolation"] not in INTERPOLATIONS:
            raise ValueError(f"the interpolation {body['interpolation']!r} is unknown")
        (height, width), (red, green, blue) = body["size"], body["fill"]
        if not all(type(side) is int and side > 0 for side in (height, width)):
            raise ValueError(f"the size {body['size']!r:.60} is not two numbers of pixels")
        if not all(type(level) is int and 0 <= level <= 255 for level in (red, green, blue)):
            raise ValueError(f"the colour {body['fill']!r:.60} is not three numbers from 0 to 255")
        return cls(
            body["mode"],
            (height, width),
            body["interpolation"],
            (red, green, blue),
            bool(body["rounds_down"]),
        )

    def __str__(self) -> str:
        height, width = self.size
        how = {
            "stretch": f"resized to {height}x{width}",
            "shortest": f"resized to cover {height}x{width}",
            "longest": f"resized to fit into {height}x{width}",
        }[self.mode]
        return f"{how} ({self.interpolation}), then cut at the centre"


_MAX_ASPECT = 16
"""Longer side over shorter side up to which a picture is resized whole."""


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut the ends of a very long picture, which would take gigabytes when its side grows."""
    width, height = image.size
    most = _MAX_ASPECT * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def framing_in(metadata: Mapping[str, str]) -> Framing | None:
    """The framing that the metadata of an ONNX file name; None: pictures are stretched.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the metadata are damaged.
    """
    text = metadata.get("framing")
    return None if text is None else Framing.from_json(text)
