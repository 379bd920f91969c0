"""Decode pictures to uint8 pixels, in the same way for training, evaluation and prediction.

Orientation from EXIF, then 8-bit grey or RGB, then one antialiased bilinear resize that stretches
to the size asked for. The same in three lines of Pillow for ordinary pictures:
`ImageOps.exif_transpose(Image.open(f)).convert("RGB").resize((W, H), Image.Resampling.BILINEAR)`.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lepton_automl.errors import DataError

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Formats that Pillow may open: raster formats that run no other program."""

_JPEG, _TIFF, _PPM = ".jpg .jpeg .jpe .jfif .mpo", ".tif .tiff", ".ppm .pgm .pbm .pnm"
SUFFIXES = frozenset(f"{_JPEG} {_TIFF} {_PPM} .png .gif .bmp .webp".split())
"""Suffixes of picture files, in lower or upper case."""

T = TypeVar("T")
R = TypeVar("R")

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Exceptions of Pillow's readers for damaged files.

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EXIF orientation (CIPA DC-008, tag 0x0112) -> transposition that sets the picture upright.


@dataclass(frozen=True)
class PictureInfo:
    """Size and colour of a valid picture file."""

    size: tuple[int, int]
    """Height and width in pixels, after EXIF orientation."""
    is_grey: bool
    """Whether the file has no colour."""


def decode(
    picture: Path | NDArray[np.uint8], channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode one picture to pixels (H, W, `channels`), 0 to 255.

    Transparent pixels are blended with white. 16-bit grey is divided by 257 and rounded. Colour
    becomes grey as ITU-R BT.601 luma. Of an animation the first frame is used.

    Parameters
    ----------
    picture : Path or uint8 array (H, W) or (H, W, C)
        A picture file, or pixels with 1 or 3 channels.
    channels : int
        1 for grey, 3 for RGB.
    size : (int, int), optional
        Height and width to resize to; the picture's own by default.

    Raises
    ------
    DataError
        If the file is not a picture, is damaged, or has more pixels than Pillow's limit.
    """
    if isinstance(picture, np.ndarray):
        pixels = picture if picture.ndim == 3 else picture[..., None]
        if pixels.shape[2] == channels and size in (None, pixels.shape[:2]):
            return pixels
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    else:
        image = _open_upright(picture)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(image, dtype=np.uint8).reshape(image.size[1], image.size[0], channels)


def check_picture(path: Path) -> PictureInfo:
    """Read a picture file completely, to check that it is valid.

    Raises
    ------
    DataError
        As `decode`.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(image)
            (width, height), is_grey = image.size, _is_grey(image)
            # A JPEG is read completely, but decoded at an eighth of its size: twice as fast.
            image.draft(None, (1, 1))
            image.load()
            _to_grey_or_rgb(image)
            size = (width, height) if _orientation(image) >= 5 else (height, width)
            return PictureInfo(size, is_grey)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def map_in_threads(
    function: Callable[[T], R], items: Sequence[T], on_item: Callable[[int], None] | None = None
) -> list[R]:
    """Map `function` over items in threads, in order: Pillow decodes outside the GIL."""
    results = []
    Image.init()  # Loads Pillow's formats before threads do so concurrently.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # Pillow warns of odd metadata and of too many pixels; the latter raise an error here.
        warnings.simplefilter("ignore")
        for done, result in enumerate(pool.map(function, items), start=1):
            results.append(result)
            if on_item is not None:
                on_item(done)
    return results


def to_uint8(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Convert 16-bit values 0 to 65535 to 8 bits: divided by 257, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _open_upright(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_pixels(image)
            image.load()
            turn = _TRANSPOSITIONS.get(_orientation(image))
            plain = _to_grey_or_rgb(image)
            return plain if turn is None else plain.transpose(turn)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _check_pixels(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.size[0] * image.size[1] > limit:
        raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, at most {limit} are read")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except _UNREADABLE:
        # Valid pixels with damaged EXIF: use them as stored, as viewers do.
        return 1


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 1]).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert to mode L or RGB, transparency blended with white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, 8 or 16 bits are read")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values {values.min()} to {values.max()}, 0 to 65535 are read")
        return Image.fromarray(to_uint8(values))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in _GREY else "RGB")


def _unreadable(path: Path, error: BaseException) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        reason = "not a picture of a known format"
    else:
        reason = str(error) if not isinstance(error, OSError) else error.strerror or str(error)
    return DataError(
        f"{path} cannot be read: {reason}",
        fix="repair or remove the file, or give --skip-corrupt to ignore such files",
    )
