"""Convert what picture files hold to 8 bits of grey or RGB, upright."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lepton_automl.data.pictures.levels import Levels
from lepton_automl.data.pictures.picture_files import (
    ROWS,
    UNREADABLE,
    FloatImage,
    PictureFile,
    is_16_bit_colour,
    wide_values,
)
from lepton_automl.data.pictures.pixel_scale import LEAST_WIDTH, SIXTEEN_BIT, PixelScale

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EXIF orientation (CIPA DC-008, tag 0x0112) -> transposition that sets the picture upright.


def values_16_bit(image: Image.Image, path: PictureFile, channels: int) -> NDArray[np.integer]:
    """Stored values (H, W, `channels`) of an open picture file of 16 bits a channel."""
    is_colour = is_16_bit_colour(image)
    image.load()  # Turns a TIFF, which states no orientation afterwards.
    if is_colour and channels == 3 and not image.has_transparency_data:
        return wide_values(path)
    if not image.mode.startswith("I") or channels != 1:
        kind = "grey" if channels == 1 else "RGB without transparency"
        raise ValueError(f"it has no 16 bits of {kind}, which the net reads")
    return integers(image, SIXTEEN_BIT)[..., None]


def with_opacity(image: Image.Image, scale: PixelScale) -> NDArray[np.uint8]:
    """RGB and opacity (H, W, 4) of an open picture file, upright; of 16 bits the upper 8."""
    image.load()
    turn = TRANSPOSITIONS.get(orientation(image))
    if are_floats(image):
        image = _to_8_bit(image, scale)
    elif image.mode.startswith("I"):
        image = _to_8_bit(image, SIXTEEN_BIT)
    plain = in_mode(image, "RGBA")
    return np.asarray(plain if turn is None else plain.transpose(turn))


def upright(image: Image.Image, path: PictureFile, scale: PixelScale) -> Image.Image:
    """Grey or RGB pixels of an open picture file, turned as its EXIF says."""
    plain = _wide_colour(path, scale.of_files) if _is_wide(image, scale) else None
    image.load()
    turn = TRANSPOSITIONS.get(orientation(image))
    plain = plain or to_grey_or_rgb(image, scale)
    return plain if turn is None else plain.transpose(turn)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture itself where it has the mode: `Image.convert` would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _is_wide(image: Image.Image, scale: PixelScale) -> bool:
    # With the full 16 bits the upper 8 bits are the answer, as everywhere else.
    return scale.of_files != SIXTEEN_BIT and is_16_bit_colour(image)


def _wide_colour(path: PictureFile, scale: PixelScale) -> Image.Image:
    """16-bit colour, converted from all its bits."""
    values = wide_values(path)
    pixels: NDArray[np.uint8] = np.empty(values.shape, np.uint8)
    for start in range(0, len(pixels), ROWS):
        pixels[start : start + ROWS] = scale.to_uint8(values[start : start + ROWS])
    if pixels.shape[2] == 4:
        return _over_white(Image.fromarray(pixels))
    return Image.fromarray(pixels)


def levels_of(plain: Image.Image, *, is_wide: bool) -> Levels:
    """Levels of grey or RGB pixels; of 16-bit colour those that its upper bytes allow."""
    if is_wide:
        found = Levels.of(np.asarray(plain))
        return Levels(
            found.low * 256, found.high * 256 + 255, found.extreme_share, is_above_8_bits=True
        )
    counts = np.add.reduce(np.reshape(plain.histogram(), (-1, 256)))
    used = np.flatnonzero(counts)
    low, high = int(used[0]), int(used[-1])
    extreme = counts[low] + (counts[high] if high > low else 0)
    return Levels(float(low), float(high), float(extreme / counts.sum()), is_above_8_bits=False)


def is_lossless(image: Image.Image) -> bool:
    """Whether the file stores its pixels without loss."""
    is_jpeg = "jpeg" in str(image.info.get("compression", ""))
    return image.format in {"PNG", "BMP", "GIF", "PPM"} or (image.format == "TIFF" and not is_jpeg)


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8 in valid files; 1 where none is stated."""
    if image.format == "PNG" and not image.info and not getattr(image, "tile", True):
        return 1  # It is loaded and states nothing.
    try:
        return int(image.getexif().get(0x0112, 1))
    except UNREADABLE:
        # Valid pixels with damaged EXIF: use them as stored, as viewers do.
        return 1


def is_animated(image: Image.Image) -> bool:
    """Whether there are frames after the first; camera files (MPO) have other views instead."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except UNREADABLE:
        return False  # Only the first frame is used, whatever the others are.


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colour by its mode, or by its palette."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 1]).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY


def to_grey_or_rgb(image: Image.Image, scale: PixelScale) -> Image.Image:
    """Convert to mode L or RGB, transparency blended with white."""
    if image.mode.startswith("I") or are_floats(image):
        image = _to_8_bit(image, scale)
    if image.has_transparency_data:
        return _over_white(image)
    return in_mode(image, "L" if image.mode in _GREY else "RGB")


def _to_8_bit(image: Image.Image, scale: PixelScale) -> Image.Image:
    """Grey, RGB or RGBA of a picture with more than 8 bits."""
    is_whole = not are_floats(image)
    scale = scale.of_files if is_whole else scale
    values = integers(image, scale) if is_whole else fractions(image)
    pixels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS):
        rows = slice(start, start + ROWS)
        pixels[rows] = scale.to_uint8(values[rows])
        if values.ndim == 3 and values.shape[2] == 4:  # Nothing is transparent below 0.
            opacity = PixelScale(0.0, scale.white if scale.white >= LEAST_WIDTH else 1.0)
            pixels[rows, :, 3] = opacity.to_uint8(values[rows, :, 3])
    return Image.fromarray(pixels)


def _over_white(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top in range(0, image.size[1], ROWS):
        part = image.crop((0, top, image.size[0], min(top + ROWS, image.size[1])))
        white = Image.new("RGBA", part.size, "white")
        whole.paste(Image.alpha_composite(white, part.convert("RGBA")).convert("RGB"), (0, top))
    return whole


def integers(image: Image.Image, scale: PixelScale) -> NDArray[np.integer]:
    """Values of a picture with more than 8 bits."""
    values = np.asarray(image)
    low, high = min(0, scale.black), max(65535, scale.white)
    if values.min() < low or values.max() > high:
        raise ValueError(f"values {values.min()} to {values.max()}, {low:g} to {high:g} are read")
    return values


def are_floats(image: Image.Image) -> bool:
    """Whether the pixels are floating-point numbers."""
    return image.mode == "F" or isinstance(image, FloatImage)


def fractions(image: Image.Image) -> NDArray[np.float32]:
    """Values (H, W) or (H, W, C) of a picture of floating-point numbers."""
    values: NDArray[np.float32] = (
        image.values() if isinstance(image, FloatImage) else np.asarray(image)
    )
    for start in range(0, len(values), ROWS):
        if not np.isfinite(values[start : start + ROWS]).all():
            raise ValueError("NaN or infinite pixels")
    return values
