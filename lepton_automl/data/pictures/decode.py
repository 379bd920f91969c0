"""Decode pictures to uint8 pixels, in the same way for training, evaluation and prediction.

Orientation from EXIF, then 8-bit grey or RGB, then one antialiased bilinear resize that stretches
to the size asked for. The same in three lines of Pillow for ordinary pictures:
`ImageOps.exif_transpose(Image.open(f)).convert("RGB").resize((W, H), Image.Resampling.BILINEAR)`.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lepton_automl.data.pictures import modes, plain_png
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.levels import Levels
from lepton_automl.data.pictures.picture_files import (
    BYTES_A_PIXEL,
    ROWS,
    SMALL,
    UNREADABLE,
    Picture,
    PictureFile,
    image_in,
    is_16_bit_colour,
    open_or_read,
    opened,
    unreadable,
)
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

_AT_A_TIME = 8
"""Pictures that a thread reads one after the other, at most."""
_SHORT = 2e-4
"""Seconds: shorter work is mostly Python, for which threads wait for each other."""
_PLAIN = (1, 3)
"""Channels of grey and RGB pictures."""


@dataclass(frozen=True)
class PictureInfo:
    """Size and colour of a valid picture file."""

    size: tuple[int, int]
    """Height and width in pixels, after EXIF orientation."""
    is_grey: bool
    """Whether the file has no colour."""
    levels: Levels
    """Of its pixels."""
    has_transparency: bool = False
    """Whether pixels may be transparent; they are blended with white."""
    is_animated: bool = False
    """Whether it has several frames, of which the first one is used."""
    pixel_digest: bytes | None = None
    """SHA-256 of the pixels, grey or RGB, row by row, of a picture with 8 bits that is stored
    without loss; None of others, whose pixels depend on the version of the reader."""
    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 where the file states none."""


def decode(
    picture: Picture,
    channels: int,
    size: tuple[int, int] | None = None,
    scale: PixelScale = SIXTEEN_BIT,
    framing: Framing | None = None,
) -> NDArray[np.uint8]:
    """Decode one picture to pixels (H, W, `channels`), 0 to 255.

    Transparent pixels are blended with white. Values of more than 8 bits are converted by `scale`.
    Colour becomes grey as ITU-R BT.601 luma. Of an animation the first frame is used.

    Parameters
    ----------
    picture : Path or uint8 array (H, W) or (H, W, C)
        A picture file, or pixels.
    channels : int
        1 for grey, 3 for RGB, 4 for RGB and opacity of a file; any number that the pixels have.
    size : (int, int), optional
        Height and width to resize to; the picture's own by default.
    scale : PixelScale
        Black and white of files with more than 8 bits a channel; by default 0 and 65535, as for
        whole numbers where it is that of fractions.
    framing : Framing, optional
        How the picture gets that size; by default it is resized without regard to its shape.

    Raises
    ------
    DataError
        If it is not a regular file, not a picture, is damaged, or needs too much memory (`MEMORY`),
        or has other channels and these are not colours.
    """
    if isinstance(picture, np.ndarray):
        pixels = picture if picture.ndim == 3 else picture[..., None]
        fits = framing is None and size in (None, pixels.shape[:2])
        if pixels.shape[2] == channels and fits:
            return pixels
        if pixels.shape[2] not in _PLAIN or channels not in _PLAIN:
            return _each_channel(pixels, channels, size, framing)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return _framed(image, channels, size, framing)
    if channels not in (*_PLAIN, 4):
        raise DataError(
            f"{picture} is a picture file, {channels} channels are wanted",
            fix="give .npy files with arrays (H, W, C)",
        )
    found = open_or_read(picture)
    if channels in _PLAIN and (plain := _plain_image(found)) is not None:
        try:
            return _framed(plain, channels, size, framing)
        except UNREADABLE as error:
            raise unreadable(picture, error) from error
    file = io.BytesIO(found) if isinstance(found, bytes) else found
    with file, image_in(file, picture) as image:
        if channels not in _PLAIN:
            return _each_channel(modes.with_opacity(image, scale), channels, size, framing)
        return _framed(modes.upright(image, picture, scale), channels, size, framing)


def _plain_image(found: bytes | io.BufferedReader) -> Image.Image | None:
    """The picture in a file of the simplest form, which needs no conversion; else None."""
    if not isinstance(found, bytes):
        return None
    return plain_png.read(found, SMALL // BYTES_A_PIXEL)


def _each_channel(
    pixels: NDArray[np.uint8],
    channels: int,
    size: tuple[int, int] | None,
    framing: Framing | None,
) -> NDArray[np.uint8]:
    """Pixels of which every channel is resized as a grey picture is."""
    if pixels.shape[2] != channels:
        raise DataError(
            f"a picture has {pixels.shape[2]} channels, {channels} are wanted; only grey and RGB "
            "pictures are converted into each other",
            fix="give pictures with the channels that the net was made for",
        )
    planes = [
        _framed(Image.fromarray(np.ascontiguousarray(pixels[..., n])), 1, size, framing)
        for n in range(channels)
    ]
    return np.concatenate(planes, axis=2)


def decode_16_bit(
    picture: PictureFile | NDArray[np.uint16], channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint16]:
    """Decode one picture of 16 bits a channel to its stored values (H, W, `channels`).

    It is resized as by `decode`, in floating point, and rounded.

    Parameters
    ----------
    picture : Path or uint16 array (H, W, C)
        A grey or RGB picture file of 16 bits without transparency, or pixels.
    channels : int
        Channels that it must have.
    size : (int, int), optional
        Height and width to resize to; the picture's own by default.

    Raises
    ------
    DataError
        As `decode`, or if it has 8 bits or other channels.
    """
    if isinstance(picture, np.ndarray):
        planes = [Image.fromarray(picture[..., n].astype(np.float32)) for n in range(channels)]
        if picture.shape[2] == channels and size in (None, picture.shape[:2]):
            return picture
    else:
        with opened(picture) as image:
            stored = modes.values_16_bit(image, picture, channels)
            turn = modes.TRANSPOSITIONS.get(modes.orientation(image))
            planes = [Image.fromarray(stored[..., n].astype(np.float32)) for n in range(channels)]
            planes = [plane if turn is None else plane.transpose(turn) for plane in planes]
    if size is not None:
        planes = [each.resize((size[1], size[0]), Image.Resampling.BILINEAR) for each in planes]
    values = np.stack([np.asarray(each) for each in planes], axis=2)
    uint16_pixels: NDArray[np.uint16] = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
    return uint16_pixels


def _framed(
    image: Image.Image, channels: int, size: tuple[int, int] | None, framing: Framing | None
) -> NDArray[np.uint8]:
    image = modes.in_mode(image, "L" if channels == 1 else "RGB")
    if size is not None and framing is not None:
        image = framing.apply(image, size)
    elif size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    # As `np.array(image)`, in two thirds of the time.
    pixels = np.frombuffer(image.tobytes(), np.uint8).copy()
    return pixels.reshape(image.size[1], image.size[0], channels)


def image_pixels(image: Image.Image) -> NDArray[Any]:
    """Pixels (H, W, C) of an image in memory, turned as its EXIF says.

    Returns
    -------
    ndarray
        uint8, grey or RGB, transparent pixels blended with white; values of more than 8 bits and
        floating-point values as they are.
    """
    is_plain = not (image.mode.startswith("I") or image.mode == "F")
    turn = modes.TRANSPOSITIONS.get(modes.orientation(image))
    plain = modes.to_grey_or_rgb(image, SIXTEEN_BIT) if is_plain else image
    pixels: NDArray[Any] = np.array(plain if turn is None else plain.transpose(turn))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def thumbnail(picture: Picture, side: int, scale: PixelScale = SIXTEEN_BIT) -> NDArray[np.uint8]:
    """Grey thumbnail (`side`, `side`) of a picture; a JPEG is decoded at a part of its size.

    Raises
    ------
    DataError
        As `decode`.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim == 3 and picture.shape[2] not in _PLAIN:  # The mean of all channels.
            mean = np.rint(picture.mean(2, dtype=np.float32)).astype(np.uint8)
            return _square(Image.fromarray(mean), side)
        return _square(Image.fromarray(decode(picture, 1)[..., 0]), side)
    is_jpeg = picture.suffix.lower() in {".jpg", ".jpeg"}
    with opened(picture, is_draft=is_jpeg) as image:
        if is_jpeg:
            image.draft("L", (2 * side, 2 * side))
            return _square(image.convert("L"), side)
        return _square(modes.in_mode(modes.upright(image, picture, scale), "L"), side)


def _square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    is_small = min(image.size) < side
    way = Image.Resampling.BILINEAR if is_small else Image.Resampling.BOX
    return np.asarray(image.resize((side, side), way))


def check_picture(path: PictureFile) -> PictureInfo:
    """Read a picture file completely, to check that it is valid.

    Raises
    ------
    DataError
        As `decode`.
    """
    return check_with_thumbnail(path, 0)[0]


def check_with_thumbnail(
    path: PictureFile, side: int
) -> tuple[PictureInfo, NDArray[np.uint8] | None]:
    """As `check_picture`, with the `thumbnail` of a file of 8 bits that is stored without loss.

    Raises
    ------
    DataError
        As `decode`.
    """
    with opened(path, is_draft=True) as image:
        (width, height), is_grey = image.size, modes.is_grey(image)
        # A JPEG is read completely, but decoded at an eighth of its size: twice as fast.
        image.draft(None, (1, 1))
        is_wide, is_animated = is_16_bit_colour(image), modes.is_animated(image)
        image.load()
        if image.mode.startswith("I"):
            plain, levels = (
                None,
                Levels.of(modes.integers(image, SIXTEEN_BIT), is_above_8_bits=True),
            )
        elif modes.are_floats(image):
            colours = modes.fractions(image)
            colours = colours if colours.ndim == 2 else colours[..., :3]
            plain, levels = None, Levels.of(colours, is_above_8_bits=True)
        else:
            plain = modes.to_grey_or_rgb(image, SIXTEEN_BIT)
            levels = modes.levels_of(plain, is_wide=is_wide)
        size = (width, height) if modes.orientation(image) >= 5 else (height, width)
        digest, thumb = None, None
        if plain is not None and not is_wide and modes.is_lossless(image):
            turn = modes.TRANSPOSITIONS.get(modes.orientation(image))
            plain = plain if turn is None else plain.transpose(turn)
            digest = _pixel_digest(modes.in_mode(plain, "L" if is_grey else "RGB"))
            thumb = _square(modes.in_mode(plain, "L"), side) if side else None
        turned = modes.orientation(image)
        info = PictureInfo(
            size,
            is_grey,
            levels,
            image.has_transparency_data,
            is_animated,
            digest,
            turned if turned in modes.TRANSPOSITIONS else 1,
        )
        return info, thumb


def _pixel_digest(image: Image.Image) -> bytes:
    digest = hashlib.sha256()
    for top in range(0, image.size[1], ROWS):
        rows = image.crop((0, top, image.size[0], min(top + ROWS, image.size[1])))
        digest.update(rows.tobytes())
    return digest.digest()


def map_in_threads(
    function: Callable[[T], R], items: Sequence[T], on_item: Callable[[int], None] | None = None
) -> list[R]:
    """Map `function` over items in threads, in order: Pillow decodes outside the GIL.

    It begins in this thread, and stays there as long as most items take less than `_SHORT` seconds.
    """
    results = list[R]()

    def add(result: R) -> None:
        results.append(result)
        if on_item is not None:
            on_item(len(results))

    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of too many pixels; the latter raise an error here.
        warnings.simplefilter("ignore")
        slow, start = 0, time.perf_counter()
        for number, item in enumerate(items, start=1):
            add(function(item))
            start, before = time.perf_counter(), start
            slow += start - before > _SHORT
            if slow > 2 and 2 * slow > number:  # Where others run too, some are interrupted.
                break
        if left := items[len(results) :]:
            threads = min(8, os.cpu_count() or 1)
            # Several at a time: the switch between threads takes as long as short work.
            size = max(1, min(_AT_A_TIME, len(left) // (2 * threads)))
            chunks = [left[start : start + size] for start in range(0, len(left), size)]
            with ThreadPoolExecutor(threads) as pool:
                for part in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
                    for result in part:
                        add(result)
    return results
