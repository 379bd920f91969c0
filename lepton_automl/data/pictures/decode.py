"""Decode pictures to uint8 pixels, in the same way for training, evaluation and prediction.

Orientation from EXIF, then 8-bit grey or RGB, then one antialiased bilinear resize that stretches
to the size asked for. The same in three lines of Pillow for ordinary pictures:
`ImageOps.exif_transpose(Image.open(f)).convert("RGB").resize((W, H), Image.Resampling.BILINEAR)`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import io
import os
import re
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.core.untrusted_files import PICTURE
from lepton_automl.data.pictures import float_tiff, plain_png
from lepton_automl.data.pictures.float_tiff import FloatTiff
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.levels import Levels
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
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
_SMALL = 4 << 20
"""Bytes up to which a picture is decoded without waiting for others; at most 8 are at once."""
_NO_WAIT = nullcontext()
_LARGE_FILE = 16 << 20
"""Bytes of a file from which on it is decoded alone: some readers hold all of it in memory."""
_BYTES_A_PIXEL = 12
"""Of most pictures, that are decoded and converted to grey or RGB."""
_DRAFT_BYTES = 7
"""Bytes a pixel of a JPEG that is decoded at a part of its size."""
_AT_A_TIME = 8
"""Pictures that a thread reads one after the other, at most."""
_SHORT = 2e-4
"""Seconds: shorter work is mostly Python, for which threads wait for each other."""
_ROWS = 256
"""Rows of a picture with more than 8 bits that are converted at once."""

_PLAIN = (1, 3)
"""Channels of grey and RGB pictures."""
_COLOUR = {"RGB", "RGBA"}
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
        If it is no regular file, not a picture, is damaged, or needs too much memory (`MEMORY`),
        or has other channels and these are no colours.
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
    with open_picture(picture) as file:
        if channels in _PLAIN and (plain := _plain_image(file)) is not None:
            try:
                return _framed(plain, channels, size, framing)
            except _UNREADABLE as error:
                raise _unreadable(picture, error) from error
        with _image_in(file, picture) as image:
            if channels not in _PLAIN:
                return _each_channel(_with_opacity(image, scale), channels, size, framing)
            return _framed(_upright(image, picture, scale), channels, size, framing)


def _plain_image(file: BinaryIO) -> Image.Image | None:
    """The picture in a file of the simplest form, which needs no conversion; else None."""
    if not isinstance(file, io.BytesIO):
        return None
    return plain_png.read(file.getvalue(), _SMALL // _BYTES_A_PIXEL)


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


def decode_deep(
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
        with _opened(picture) as image:
            stored = _deep_values(image, picture, channels)
            turn = _TRANSPOSITIONS.get(_orientation(image))
            planes = [Image.fromarray(stored[..., n].astype(np.float32)) for n in range(channels)]
            planes = [plane if turn is None else plane.transpose(turn) for plane in planes]
    if size is not None:
        planes = [each.resize((size[1], size[0]), Image.Resampling.BILINEAR) for each in planes]
    values = np.stack([np.asarray(each) for each in planes], axis=2)
    deep: NDArray[np.uint16] = np.clip(np.rint(values), 0, 65535).astype(np.uint16)
    return deep


def _deep_values(image: Image.Image, path: PictureFile, channels: int) -> NDArray[np.integer]:
    """Stored values (H, W, `channels`) of an open picture file of 16 bits a channel."""
    is_colour = _is_16_bit_colour(image)
    image.load()  # Turns a TIFF, which states no orientation afterwards.
    if is_colour and channels == 3 and not image.has_transparency_data:
        return _wide_values(path)
    if not image.mode.startswith("I") or channels != 1:
        kind = "grey" if channels == 1 else "RGB without transparency"
        raise ValueError(f"it has no 16 bits of {kind}, which the net reads")
    return _integers(image, SIXTEEN_BIT)[..., None]


def _with_opacity(image: Image.Image, scale: PixelScale) -> NDArray[np.uint8]:
    """RGB and opacity (H, W, 4) of an open picture file, upright; of 16 bits the upper 8."""
    image.load()
    turn = _TRANSPOSITIONS.get(_orientation(image))
    if _are_floats(image):
        image = _to_8_bit(image, scale)
    elif image.mode.startswith("I"):
        image = _to_8_bit(image, SIXTEEN_BIT)
    plain = _in_mode(image, "RGBA")
    return np.asarray(plain if turn is None else plain.transpose(turn))


def _framed(
    image: Image.Image, channels: int, size: tuple[int, int] | None, framing: Framing | None
) -> NDArray[np.uint8]:
    image = _in_mode(image, "L" if channels == 1 else "RGB")
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
    turn = _TRANSPOSITIONS.get(_orientation(image))
    plain = _to_grey_or_rgb(image, SIXTEEN_BIT) if is_plain else image
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
    with _opened(picture, is_draft=is_jpeg) as image:
        if is_jpeg:
            image.draft("L", (2 * side, 2 * side))
            return _square(image.convert("L"), side)
        return _square(_in_mode(_upright(image, picture, scale), "L"), side)


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
    with _opened(path, is_draft=True) as image:
        (width, height), is_grey = image.size, _is_grey(image)
        # A JPEG is read completely, but decoded at an eighth of its size: twice as fast.
        image.draft(None, (1, 1))
        is_wide, is_animated = _is_16_bit_colour(image), _is_animated(image)
        image.load()
        if image.mode.startswith("I"):
            plain, levels = None, Levels.of(_integers(image, SIXTEEN_BIT), is_deep=True)
        elif _are_floats(image):
            colours = _fractions(image)
            colours = colours if colours.ndim == 2 else colours[..., :3]
            plain, levels = None, Levels.of(colours, is_deep=True)
        else:
            plain = _to_grey_or_rgb(image, SIXTEEN_BIT)
            levels = _levels(plain, is_wide=is_wide)
        size = (width, height) if _orientation(image) >= 5 else (height, width)
        digest, thumb = None, None
        if plain is not None and not is_wide and _is_lossless(image):
            turn = _TRANSPOSITIONS.get(_orientation(image))
            plain = plain if turn is None else plain.transpose(turn)
            digest = _pixel_digest(_in_mode(plain, "L" if is_grey else "RGB"))
            thumb = _square(_in_mode(plain, "L"), side) if side else None
        turned = _orientation(image)
        info = PictureInfo(
            size,
            is_grey,
            levels,
            image.has_transparency_data,
            is_animated,
            digest,
            turned if turned in _TRANSPOSITIONS else 1,
        )
        return info, thumb


def _is_lossless(image: Image.Image) -> bool:
    is_jpeg = "jpeg" in str(image.info.get("compression", ""))
    return image.format in {"PNG", "BMP", "GIF", "PPM"} or (image.format == "TIFF" and not is_jpeg)


def _pixel_digest(image: Image.Image) -> bytes:
    digest = hashlib.sha256()
    for top in range(0, image.size[1], _ROWS):
        rows = image.crop((0, top, image.size[0], min(top + _ROWS, image.size[1])))
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
        return _NO_WAIT if count <= _SMALL else self._wait(count)

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


class _FloatImage(Image.Image):
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
        return _FloatImage(found, whole)


@contextmanager
def _opened(path: PictureFile, *, is_draft: bool = False) -> Iterator[Image.Image]:
    """An open picture file, and the memory for decoding it, until the block ends.

    Raises
    ------
    DataError
        If it cannot be read, or the block raises what Pillow raises for damaged files.
    """
    with open_picture(path) as file, _image_in(file, path, is_draft=is_draft) as image:
        yield image


@contextmanager
def _image_in(
    file: io.BytesIO | io.BufferedReader, path: PictureFile, *, is_draft: bool = False
) -> Iterator[Image.Image]:
    """As `_opened`, of a file that is open."""
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
    except _UNREADABLE as error:
        if not length:
            raise DataError(f"{path} cannot be read: the file is empty", fix=REPAIR) from error
        raise _unreadable(path, error) from error


def open_picture(path: PictureFile) -> io.BytesIO | io.BufferedReader:
    """Open a picture file for reading.

    Raises
    ------
    DataError
        If it is no regular file, too large, or a damaged member of an archive.
    """
    if isinstance(path, Member):
        return io.BytesIO(path.read(max_bytes=PICTURE.max_bytes, fix=REPAIR))
    # One read instead of many small ones.
    return untrusted_files.open_or_read(path, PICTURE, most=_SMALL, fix=REPAIR)


def _bytes_a_pixel(image: Image.Image, is_draft: bool) -> int:
    """Measured peaks, rounded up."""
    if isinstance(image, _FloatImage):
        return image.tiff.bytes_a_pixel
    if _is_16_bit_colour(image):
        return 32
    if image.format == "WEBP":
        return 20
    return _DRAFT_BYTES if is_draft and image.format in {"JPEG", "MPO"} else _BYTES_A_PIXEL


def _upright(image: Image.Image, path: PictureFile, scale: PixelScale) -> Image.Image:
    """Grey or RGB pixels of an open picture file, turned as its EXIF says."""
    plain = _wide_colour(path, scale.of_files) if _is_wide(image, scale) else None
    image.load()
    turn = _TRANSPOSITIONS.get(_orientation(image))
    plain = plain or _to_grey_or_rgb(image, scale)
    return plain if turn is None else plain.transpose(turn)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture itself where it has the mode: `Image.convert` would copy it."""
    return image if image.mode == mode else image.convert(mode)


_WIDE = re.compile(r"(RGB|RGBA);16([BLN])")
"""Raw modes of 16-bit colour in Pillow, which keeps the upper 8 bits of each value."""


def _raw_mode(image: Image.Image) -> str:
    """How Pillow reads the pixels of a file that is not loaded yet; empty where it has no name."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _is_16_bit_colour(image: Image.Image) -> bool:
    return image.mode in _COLOUR and _WIDE.fullmatch(_raw_mode(image)) is not None


def _is_wide(image: Image.Image, scale: PixelScale) -> bool:
    # With the full 16 bits the upper 8 bits are the answer, as everywhere else.
    return scale.of_files != SIXTEEN_BIT and _is_16_bit_colour(image)


def _wide_colour(path: PictureFile, scale: PixelScale) -> Image.Image:
    """16-bit colour, converted from all its bits."""
    values = _wide_values(path)
    pixels: NDArray[np.uint8] = np.empty(values.shape, np.uint8)
    for start in range(0, len(pixels), _ROWS):
        pixels[start : start + _ROWS] = scale.to_uint8(values[start : start + _ROWS])
    if pixels.shape[2] == 4:
        return _over_white(Image.fromarray(pixels))
    return Image.fromarray(pixels)


def _wide_values(path: PictureFile) -> NDArray[np.uint16]:
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
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
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


def _levels(plain: Image.Image, *, is_wide: bool) -> Levels:
    """Levels of grey or RGB pixels; of 16-bit colour those that its upper bytes allow."""
    if is_wide:
        found = Levels.of(np.asarray(plain))
        return Levels(found.low * 256, found.high * 256 + 255, found.extreme_share, is_deep=True)
    counts = np.add.reduce(np.reshape(plain.histogram(), (-1, 256)))
    used = np.flatnonzero(counts)
    low, high = int(used[0]), int(used[-1])
    extreme = counts[low] + (counts[high] if high > low else 0)
    return Levels(float(low), float(high), float(extreme / counts.sum()), is_deep=False)


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


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and not image.info and not getattr(image, "tile", True):
        return 1  # It is loaded and states nothing.
    try:
        return int(image.getexif().get(0x0112, 1))
    except _UNREADABLE:
        # Valid pixels with damaged EXIF: use them as stored, as viewers do.
        return 1


def _is_animated(image: Image.Image) -> bool:
    """Whether there are frames after the first; camera files (MPO) have other views instead."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except _UNREADABLE:
        return False  # Only the first frame is used, whatever the others are.


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 1]).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY


def _to_grey_or_rgb(image: Image.Image, scale: PixelScale) -> Image.Image:
    """Convert to mode L or RGB, transparency blended with white."""
    if image.mode.startswith("I") or _are_floats(image):
        image = _to_8_bit(image, scale)
    if image.has_transparency_data:
        return _over_white(image)
    return _in_mode(image, "L" if image.mode in _GREY else "RGB")


def _to_8_bit(image: Image.Image, scale: PixelScale) -> Image.Image:
    """Grey, RGB or RGBA of a picture with more than 8 bits."""
    is_whole = not _are_floats(image)
    scale = scale.of_files if is_whole else scale
    values = _integers(image, scale) if is_whole else _fractions(image)
    pixels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        pixels[rows] = scale.to_uint8(values[rows])
        if values.ndim == 3 and values.shape[2] == 4:  # Nothing is transparent below 0.
            opacity = PixelScale(0.0, scale.white if scale.white > 0 else 1.0)
            pixels[rows, :, 3] = opacity.to_uint8(values[rows, :, 3])
    return Image.fromarray(pixels)


def _over_white(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top in range(0, image.size[1], _ROWS):
        part = image.crop((0, top, image.size[0], min(top + _ROWS, image.size[1])))
        white = Image.new("RGBA", part.size, "white")
        whole.paste(Image.alpha_composite(white, part.convert("RGBA")).convert("RGB"), (0, top))
    return whole


def _integers(image: Image.Image, scale: PixelScale) -> NDArray[np.integer]:
    """Values of a picture with more than 8 bits."""
    values = np.asarray(image)
    low, high = min(0, scale.black), max(65535, scale.white)
    if values.min() < low or values.max() > high:
        raise ValueError(f"values {values.min()} to {values.max()}, {low:g} to {high:g} are read")
    return values


def _are_floats(image: Image.Image) -> bool:
    """Whether the pixels are floating-point numbers."""
    return image.mode == "F" or isinstance(image, _FloatImage)


def _fractions(image: Image.Image) -> NDArray[np.float32]:
    """Values (H, W) or (H, W, C) of a picture of floating-point numbers."""
    values: NDArray[np.float32] = (
        image.values() if isinstance(image, _FloatImage) else np.asarray(image)
    )
    for start in range(0, len(values), _ROWS):
        if not np.isfinite(values[start : start + _ROWS]).all():
            raise ValueError("NaN or infinite pixels")
    return values


def _unreadable(path: PictureFile, error: BaseException) -> DataError:
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
