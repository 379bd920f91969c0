"""Picture files: which are read, how they are opened, and the memory that decoding may take."""

from __future__ import annotations

import ctypes
import functools
import importlib
import io
import os
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.core.untrusted_files import PICTURE
from lepton_automl.data.pictures import float_tiff
from lepton_automl.data.pictures.float_tiff import FloatTiff
from lepton_automl.errors import DataError

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Formats that Pillow may open: raster formats that run no other program."""
_READERS = ("Jpeg", "Png", "Gif", "Bmp", "WebP", "Tiff", "Ppm")
"""Modules of Pillow that open them."""

_JPEG, _TIFF, _PPM = ".jpg .jpeg .jpe .jfif .mpo", ".tif .tiff", ".ppm .pgm .pbm .pnm"
SUFFIXES = frozenset(f"{_JPEG} {_TIFF} {_PPM} .png .gif .bmp .webp".split())
"""Suffixes of picture files, in lower or upper case."""
_PHOTOS, _DRAWN, _SCANS, _RAW = (
    ".heic .heif .avif .jxl .jp2 .j2k .jpx .jxr .tga .pcx",
    ".svg .eps .psd .xcf",
    ".exr .hdr .dcm .dicom .nii",
    ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .raw",
)
OTHER_SUFFIXES = frozenset(f"{_PHOTOS} {_DRAWN} {_SCANS} {_RAW}".split())
"""Suffixes of pictures that are not read, in lower case."""

PictureFile = Path | Member
"""A picture file: its path, or its place in an archive."""
Picture = PictureFile | NDArray[np.uint8]
"""A picture file, or pixels (H, W) or (H, W, C)."""
Pictures = NDArray[np.uint8] | tuple[Picture, ...]
"""One array (N, H, W, C) for pictures of one size, which is fast; or one `Picture` a sample."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    SystemError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Exceptions of Pillow's readers for damaged files.

REPAIR = "repair or remove the file, or give --skip-corrupt to ignore such files"
"""The way out where a picture file cannot be read."""

MEMORY = 720 << 20
"""Bytes that all pictures which are decoded at the same time take together; with them, a command
that has loaded torch takes less than 1 GiB."""
SMALL = 4 << 20
"""Bytes up to which a picture is decoded without waiting for others; at most 8 are at once."""
_NO_WAIT = nullcontext()
_LARGE_FILE = 16 << 20
"""Bytes of a file from which on it is decoded alone: some readers hold all of it in memory."""
BYTES_A_PIXEL = 12
"""Of most pictures, that are decoded and converted to grey or RGB."""
_DRAFT_BYTES = 7
"""Bytes a pixel of a JPEG that is decoded at a part of its size."""
ROWS = 256
"""Rows of a picture with more than 8 bits that are converted at once."""
_COLOUR = {"RGB", "RGBA"}


class NeedsMemory(Exception):
    """A picture needs more memory than `limit_memory` allows."""


class _SharedMemory:
    """Memory for decoding, which threads take and give back; those who wait keep their order."""

    def __init__(self, size: int, *, is_strict: bool = False) -> None:
        self.size = self._free = size
        self._is_strict = is_strict
        self._turn, self._changed = threading.Lock(), threading.Condition()

    def take(self, count: int) -> AbstractContextManager[None]:
        """Wait for `count` bytes, or for `size`, and hold them until the block ends.

        Raises
        ------
        NeedsMemory
            If it is strict, and `count` is above `size`.
        """
        return _NO_WAIT if count <= SMALL else self._wait(count)

    @contextmanager
    def _wait(self, count: int) -> Iterator[None]:
        if count > self.size and self._is_strict:
            raise NeedsMemory
        count = min(count, self.size)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


_memory = _SharedMemory(MEMORY)


def limit_memory(size: int) -> None:
    """Let this process decode only pictures that need at most `size` bytes, or 4 MiB.

    Others raise `NeedsMemory`.
    """
    global _memory
    _memory = _SharedMemory(size, is_strict=True)


def prepare() -> None:
    """Load Pillow's formats, and ignore its warnings of odd metadata and too many pixels.

    The latter raise an error here.
    """
    _load_formats()
    warnings.simplefilter("ignore")


@functools.cache
def _load_formats() -> None:
    """Load the formats that are read; Pillow would load all that it has, in twice the time."""
    for name in _READERS:
        importlib.import_module(f"PIL.{name}ImagePlugin")


@functools.cache
def _silence_libtiff() -> None:
    """Take libtiff's two handlers of messages away, which print what Pillow raises as an error.

    The library is looked for among those that the process has loaded, under Linux; elsewhere, and
    where it is part of another one, its messages stay.
    """
    try:
        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
    except OSError:
        return
    for path in sorted(set(re.findall(r"/\S*/libtiff[^/\s]*\.so\S*", maps))):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                handler = getattr(library, name)
                handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
                handler(None)


class _WholeFile:
    """A file of which no read asks for more than is left, whatever length a part of it claims.

    A read allocates what it asks for.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes; all that are left where it is negative."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if count < 0 else min(count, left))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class FloatImage(Image.Image):
    """A TIFF file of floating-point pixels that Pillow does not read, as an image of its kind."""

    format = "TIFF"

    def __init__(self, tiff: FloatTiff, file: BinaryIO) -> None:
        super().__init__()
        self.tiff, self._file = tiff, file
        self._mode = {1: "F", 3: "RGB", 4: "RGBA"}[tiff.channels]
        self._size = (tiff.size[1], tiff.size[0])
        self.is_animated = tiff.has_frames

    def load(self) -> None:
        """Nothing: `values` reads."""

    def values(self) -> NDArray[np.float32]:
        """The pixels (H, W) or (H, W, C)."""
        return self.tiff.read(self._file, _open_image)

    def getexif(self) -> Image.Exif:
        """With the orientation."""
        exif = Image.Exif()
        exif[0x0112] = self.tiff.orientation
        return exif


def _open_image(file: BinaryIO) -> Image.Image:
    _load_formats()
    _silence_libtiff()
    whole = file if isinstance(file, io.BytesIO) else cast(BinaryIO, _WholeFile(file))
    try:
        return Image.open(whole, formats=_FORMATS)
    except UnidentifiedImageError:
        found = float_tiff.read_directory(whole)
        if found is None:
            raise
        return FloatImage(found, whole)


@contextmanager
def opened(path: PictureFile, *, is_draft: bool = False) -> Iterator[Image.Image]:
    """An open picture file, and the memory for decoding it, until the block ends.

    Raises
    ------
    DataError
        If it cannot be read, or the block raises what Pillow raises for damaged files.
    """
    with open_picture(path) as file, image_in(file, path, is_draft=is_draft) as image:
        yield image


@contextmanager
def image_in(
    file: io.BytesIO | io.BufferedReader, path: PictureFile, *, is_draft: bool = False
) -> Iterator[Image.Image]:
    """As `opened`, of a file that is open."""
    length = file.seek(0, os.SEEK_END)
    is_alone = length > _LARGE_FILE
    file.seek(0)
    try:
        with (
            _memory.take(MEMORY if is_alone else 0),
            _open_image(file) as image,
        ):
            needed = _checked_bytes(image, is_draft)
            with _NO_WAIT if is_alone else _memory.take(needed):
                yield image
    except UNREADABLE as error:
        if not length:
            raise DataError(f"{path} cannot be read: the file is empty", fix=REPAIR) from error
        raise unreadable(path, error) from error


def open_picture(path: PictureFile) -> io.BytesIO | io.BufferedReader:
    """Open a picture file for reading.

    Raises
    ------
    DataError
        If it is not a regular file, too large, or a damaged member of an archive.
    """
    found = open_or_read(path)
    return io.BytesIO(found) if isinstance(found, bytes) else found


def open_or_read(path: PictureFile) -> bytes | io.BufferedReader:
    """As `open_picture`; a small file is read: one read instead of many small ones."""
    if isinstance(path, Member):
        return path.read(max_bytes=PICTURE.max_bytes, fix=REPAIR)
    return untrusted_files.open_or_read(path, PICTURE, most=SMALL, fix=REPAIR)


def _bytes_a_pixel(image: Image.Image, is_draft: bool) -> int:
    """Measured peaks, rounded up."""
    if isinstance(image, FloatImage):
        return image.tiff.bytes_a_pixel
    if is_16_bit_colour(image):
        return 32
    if image.format == "WEBP":
        return 20
    return _DRAFT_BYTES if is_draft and image.format in {"JPEG", "MPO"} else BYTES_A_PIXEL


_WIDE = re.compile(r"(RGB|RGBA);16([BLN])")
"""Raw modes of 16-bit colour in Pillow, which keeps the upper 8 bits of each value."""


def _raw_mode(image: Image.Image) -> str:
    """How Pillow reads the pixels of a file that is not loaded yet; empty where it has no name."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def is_16_bit_colour(image: Image.Image) -> bool:
    """Whether an open file, not loaded yet, has 16 bits of each colour."""
    return image.mode in _COLOUR and _WIDE.fullmatch(_raw_mode(image)) is not None


def wide_values(path: PictureFile) -> NDArray[np.uint16]:
    """Values (H, W, 3 or 4) of 16-bit colour: the upper and the lower bytes are read in turn."""
    halves = []
    for order in ("", "swapped"):
        with (
            open_picture(path) as file,
            _open_image(file) as image,
        ):
            if order and isinstance(image, ImageFile.ImageFile):
                image.tile = [_swapped(tile) for tile in image.tile]
            halves.append(np.asarray(image))
    values: NDArray[np.uint16] = halves[0].astype(np.uint16)
    for start in range(0, len(values), ROWS):
        rows = slice(start, start + ROWS)
        values[rows] = values[rows] * np.uint16(256) + halves[1][rows]
    return values


def _swapped(tile: Any) -> Any:
    """The same tile, read as if its bytes were in the other order: the lower ones are kept."""
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    found = _WIDE.fullmatch(args[0])
    if found is None:
        return tile
    native = "L" if sys.byteorder == "little" else "B"
    order = "B" if found[2].replace("N", native) == "L" else "L"
    changed = (f"{found[1]};16{order}", *args[1:])
    return tile._replace(args=changed if isinstance(tile.args, tuple) else changed[0])


def _checked_bytes(image: Image.Image, is_draft: bool) -> int:
    """Bytes that decoding a picture and converting it to grey or RGB takes.

    Raises
    ------
    ValueError
        If it has more pixels than are read.
    """
    width, height = image.size
    # Without regard to drafts, so that what is checked can also be decoded.
    each = _bytes_a_pixel(image, is_draft=False)
    if width * height > MEMORY // each:
        raise ValueError(
            f"{width}x{height} pixels, at most {MEMORY // each} are read of a {image.format} in "
            f"mode {image.mode}"
        )
    return width * height * (_bytes_a_pixel(image, is_draft) if is_draft else each)


def unreadable(path: PictureFile, error: BaseException) -> DataError:
    """The error on a picture file, from one of `UNREADABLE`."""
    if isinstance(error, UnidentifiedImageError):
        reason = "not a picture of a known format"
        if path.suffix.lower() in OTHER_SUFFIXES:
            reason = f"{path.suffix} is not read: convert it into a PNG or JPEG file"
    else:
        reason = str(error) if not isinstance(error, OSError) else error.strerror or str(error)
        reason = reason or "it is damaged"
    return DataError(
        f"{path} cannot be read: {reason}",
        fix=REPAIR,
    )
