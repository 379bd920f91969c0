"""Pictures in arrays, in memory or one a `.npy` file, of any number of channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_arrays
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.pixel_scale import OPTION, PixelScale
from lepton_automl.errors import DataError

SUFFIX = ".npy"


def read_picture(path: Path, channels: int) -> NDArray[Any]:
    """The values of a picture as they are stored.

    Parameters
    ----------
    path : Path
        `.npy`: (H, W, C), (C, H, W), or (H, W) for one channel; also as the only one of an array
        of pictures.
    channels : int
        Of the net.

    Returns
    -------
    ndarray
        (H, W, `channels`), of any numeric type.

    Raises
    ------
    DataError
        If the file holds something else.
    """
    values = untrusted_arrays.read_npy(path, fix="give one picture a file, (H, W, C)")
    return picture_in(values, channels, str(path))


def picture_in(values: NDArray[Any], channels: int, what: str) -> NDArray[Any]:
    """The values of a picture in an array, as `read_picture` returns those in a file.

    Raises
    ------
    DataError
        If it holds something else; `what` names it.
    """
    found = values[0] if values.ndim == 4 and len(values) == 1 else values
    if found.ndim == 2 and channels == 1:
        found = found[..., None]
    is_last = found.ndim == 3 and found.shape[2] == channels
    is_first = found.ndim == 3 and found.shape[0] == channels
    if found.dtype.kind not in "buif" or not found.size or not (is_last or is_first):
        raise DataError(
            f"{what} holds {values.dtype} {values.shape}, the net reads one picture (height, "
            f"width, {channels})",
            fix="give pictures with the channels that the net was made for, one a file",
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise DataError(f"{what} has NaN or infinite values", fix="repair it")
    return found if is_last else np.moveaxis(found, 0, 2)


def read_16_bit_pixels(path: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint16]:
    """The stored values (H, W, `channels`) of a picture of 16 bits, in the size of a net.

    Parameters
    ----------
    path : Path
        `.npy` as of `read_picture`, of whole numbers from 0 to 65535; else a grey picture file.
    channels, size
        As of `read_pixels`.

    Raises
    ------
    DataError
        As `read_picture`, or if the picture has 8 bits.
    """
    if path.suffix.lower() != SUFFIX:
        return decode.decode_16_bit(path, channels, size)
    return pixels_16_bit_in(read_picture(path, channels), channels, size, str(path))


def pixels_16_bit_in(
    picture: NDArray[Any], channels: int, size: tuple[int, int], what: str
) -> NDArray[np.uint16]:
    """The values of a picture (H, W, `channels`) in memory, as `read_16_bit_pixels` reads them.

    Raises
    ------
    DataError
        If they are not whole numbers from 0 to 65535, or of 8 bits; `what` names the picture.
    """
    if picture.dtype.kind not in "ui" or picture.dtype == np.uint8:
        raise DataError(
            f"{what} holds {picture.dtype}; the net reads uint16 values, as its data are stored",
            fix="give the values as the camera gives them, without scaling",
        )
    if picture.min() < 0 or picture.max() > 65535:
        raise DataError(
            f"{what} has values {picture.min()} to {picture.max()}, 0 to 65535 are read",
            fix="give the values as the camera gives them",
        )
    return decode.decode_16_bit(np.ascontiguousarray(picture, np.uint16), channels, size)


def read_pixels(
    path: Path,
    channels: int,
    size: tuple[int, int] | None,
    scale: PixelScale | None,
    framing: Framing | None,
) -> NDArray[np.uint8]:
    """The pixels (H, W, `channels`) of a picture, 0 to 255, in the size of a net or its own.

    Parameters
    ----------
    path, channels
        As of `read_picture`.
    size, framing
        As of `decode.decode`.
    scale : PixelScale or None
        Black and white of the values; None: not known, then they must be uint8.

    Raises
    ------
    DataError
        As `read_picture`, or if the values need a scale.
    """
    picture = read_picture(path, channels)
    return pixels_in(picture, channels, size, scale, framing, str(path))


def pixels_in(
    picture: NDArray[Any],
    channels: int,
    size: tuple[int, int] | None,
    scale: PixelScale | None,
    framing: Framing | None,
    what: str,
) -> NDArray[np.uint8]:
    """The pixels of a picture (H, W, C) in memory, as `read_pixels` reads them.

    Grey and RGB are converted into each other.

    Raises
    ------
    DataError
        If the values need a scale; `what` names the picture.
    """
    if scale is not None:
        pixels = scale.to_uint8(picture)
    elif picture.dtype == np.uint8:
        pixels = np.ascontiguousarray(picture)
    else:
        raise DataError(
            f"{what} holds {picture.dtype}, and the file does not say which value is black and "
            "which white",
            fix=f"give uint8 pixels, or state the values with {OPTION} BLACK:WHITE",
        )
    return decode.decode(pixels, channels, size, framing=framing)
