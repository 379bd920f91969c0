"""TIFF files with floating-point pixels that Pillow does not read: colour, and 16 or 64 bits.

TIFF 6.0 (Adobe 1992) with the floating-point predictor of Adobe's technical note 3 (2005). This
module reads the directory of the file; Pillow unpacks the strips or tiles, from the same content
with a directory that states them as bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 284, 317, 322, 323, 324
_TILE_SIZES, _EXTRA, _FORMAT = 325, 338, 339
_SHORT, _LONG = 3, 4
_TYPES = {_SHORT: "H", _LONG: "L"}
_COMPRESSIONS = {1, 5, 8, 32946, 32773}
"""None, LZW, deflate under both numbers, PackBits."""
_OPACITY = 2
"""Kind of a fourth value: opacity, by which the others are not multiplied."""
_FLOAT, _FLOAT_PREDICTOR = 3, 3
_COPIES = 9
"""Bytes that reading takes for a byte of pixels, rounded up; with it Pillow's own limit of 89
million pixels is not reached."""
_EDGES = 1 << 20
"""Pixels outside the picture in tiles at its edges, which are stored whole, beside as many as it
has."""
_BLOCK_ROWS = 64
"""Rows whose prediction is undone at a time."""


@dataclass(frozen=True)
class FloatTiff:
    """The first picture of a TIFF file, whose pixels are floating-point numbers."""

    size: tuple[int, int]
    """Height and width as they are stored, pixels."""
    channels: int
    """1 for grey, 3 for RGB, 4 for RGB and opacity."""
    itemsize: int
    """Bytes of a value: 2, 4 or 8."""
    orientation: int
    """1 to 8, as of EXIF."""
    has_frames: bool
    """Whether there are more pictures."""
    _order: str
    _compression: int
    _has_predictor: bool
    _block: tuple[int, int]
    """Rows and columns of a strip or tile."""
    _is_tiled: bool
    _places: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Offsets and sizes of the strips or tiles of each plane."""

    @property
    def bytes_a_pixel(self) -> int:
        """Bytes of memory that reading takes for a pixel."""
        return _COPIES * self.channels * self.itemsize

    def read(
        self, file: BinaryIO, open_image: Callable[[io.BytesIO], Image.Image]
    ) -> NDArray[np.float32]:
        """The values (H, W) or (H, W, C).

        Parameters
        ----------
        file : binary file
            From which the directory was read.
        open_image : callable
            Opens a file with Pillow.

        Raises
        ------
        ValueError, OSError
            If the file is damaged.
        """
        file.seek(0)
        content = file.read()
        planes = [self._plane(content, *places, open_image) for places in self._places]
        values = planes[0] if len(planes) == 1 else np.concatenate(planes, 2)
        return values[..., 0] if self.channels == 1 else values

    def _plane(
        self,
        content: bytes,
        offsets: Sequence[int],
        sizes: Sequence[int],
        open_image: Callable[[io.BytesIO], Image.Image],
    ) -> NDArray[np.float32]:
        """The values (H, W, channels of the plane) of one plane."""
        (height, width), (rows, columns) = self.size, self._block
        channels = self.channels // len(self._places)
        bytes_each = channels * self.itemsize
        whole_width = -(-width // columns) * columns
        whole_height = -(-height // rows) * rows if self._is_tiled else height
        fields: dict[int, Sequence[int]] = {
            _WIDTH: (whole_width * bytes_each,),
            _HEIGHT: (whole_height,),
            _BITS: (8,),
            _COMPRESSION: (self._compression,),
            _PHOTOMETRIC: (1,),
            _SAMPLES: (1,),
        }
        if self._is_tiled:
            fields |= {_TILE_WIDTH: (columns * bytes_each,), _TILE_HEIGHT: (rows,)}
            fields |= {_TILE_OFFSETS: offsets, _TILE_SIZES: sizes}
        else:
            fields |= {_STRIP_OFFSETS: offsets, _ROWS_PER_STRIP: (rows,), _STRIP_SIZES: sizes}
        with open_image(io.BytesIO(_of_bytes(content, fields))) as image:
            stored = np.asarray(image)
        values = np.empty((whole_height, whole_width, channels), np.float32)
        for top in range(0, whole_height, _BLOCK_ROWS):
            some = stored[top : top + _BLOCK_ROWS]
            made = self._numbers(some, columns, channels)
            with np.errstate(over="ignore"):  # Doubles beyond float32 become infinite.
                values[top : top + _BLOCK_ROWS] = made.reshape(len(some), -1, channels)
        return values[:height, :width]

    def _numbers(
        self, stored: NDArray[np.uint8], columns: int, channels: int
    ) -> NDArray[np.floating]:
        """The numbers in rows of bytes, of which a tile predicts its own columns."""
        if not self._has_predictor:
            return stored.view(f"{self._order}f{self.itemsize}")
        # Differences of bytes; the first bytes of all numbers come first, then the second ones.
        rows = stored.reshape(-1, columns * self.itemsize, channels)
        sums = np.cumsum(rows, axis=1, dtype=np.uint8)
        parts = sums.reshape(len(rows), self.itemsize, columns * channels).transpose(0, 2, 1)
        return np.ascontiguousarray(parts).view(f">f{self.itemsize}")


def read_directory(file: BinaryIO) -> FloatTiff | None:
    """What the first directory of a TIFF file says; None if its pixels are not floats.

    Raises
    ------
    ValueError, struct.error
        If the directory is damaged, or the pixels are stored in a way that is not read.
    """
    directory = _Directory(file)
    if not directory.is_tiff or _FORMAT not in directory.fields:
        return None
    channels = directory.one(_SAMPLES, 1)
    if not 1 <= channels <= 4 or set(directory.several(_FORMAT, channels)) != {_FLOAT}:
        return None
    _check_kind(directory, channels)
    height, width = directory.one(_HEIGHT, 0), directory.one(_WIDTH, 0)
    is_tiled = _TILE_WIDTH in directory.fields
    rows, columns = _block(directory, height, width)
    planes = channels if directory.one(_PLANAR, 1) == 2 else 1
    count = -(-height // rows) * -(-width // columns)
    if count * planes > directory.size:
        raise ValueError(f"{count * planes} strips or tiles in {directory.size} bytes")
    names = (_TILE_OFFSETS, _TILE_SIZES) if is_tiled else (_STRIP_OFFSETS, _STRIP_SIZES)
    offsets, sizes = (directory.several(name, count * planes) for name in names)
    return FloatTiff(
        size=(height, width),
        channels=channels,
        itemsize=directory.several(_BITS, channels)[0] // 8,
        orientation=directory.one(_ORIENTATION, 1),
        has_frames=directory.has_next,
        _order=directory.order,
        _compression=directory.one(_COMPRESSION, 1),
        _has_predictor=directory.one(_PREDICTOR, 1) == _FLOAT_PREDICTOR,
        _block=(rows, columns),
        _is_tiled=is_tiled,
        _places=tuple(
            (offsets[n : n + count], sizes[n : n + count]) for n in range(0, count * planes, count)
        ),
    )


def _check_kind(directory: _Directory, channels: int) -> None:
    """Refuse floating-point pixels that are stored in a way that is not read."""
    kind, extra = directory.one(_PHOTOMETRIC, -1), directory.one(_EXTRA, -1)
    if (channels, kind, extra) not in {(1, 1, -1), (3, 2, -1), (4, 2, _OPACITY)}:
        raise ValueError(
            f"floating-point TIFF of {channels} values a pixel, photometric interpretation {kind}; "
            "grey, RGB and RGB with unassociated opacity are read"
        )
    bits = set(directory.several(_BITS, channels))
    if len(bits) > 1 or not bits <= {16, 32, 64}:
        raise ValueError(f"floating-point TIFF of {sorted(bits)} bits, 16, 32 or 64 are read")
    compression, predictor = directory.one(_COMPRESSION, 1), directory.one(_PREDICTOR, 1)
    if compression not in _COMPRESSIONS or directory.one(_FILL_ORDER, 1) != 1:
        raise ValueError(
            f"floating-point TIFF with compression {compression}; none, LZW, deflate and PackBits "
            "are read"
        )
    if predictor not in (1, _FLOAT_PREDICTOR):
        raise ValueError(f"floating-point TIFF with predictor {predictor}, 1 and 3 are read")


def _block(directory: _Directory, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a strip or tile."""
    if _TILE_WIDTH in directory.fields:
        rows, columns = directory.one(_TILE_HEIGHT, 0), directory.one(_TILE_WIDTH, 0)
        whole = -(-height // max(1, rows)) * rows * -(-width // max(1, columns)) * columns
        is_right = rows % 16 == columns % 16 == 0 and whole <= 2 * height * width + _EDGES
    else:
        rows, columns = min(directory.one(_ROWS_PER_STRIP, height), height), width
        is_right = True
    if not (height and width and rows and columns and is_right):
        raise ValueError(f"floating-point TIFF of {width}x{height} pixels in {columns}x{rows}")
    return rows, columns


class _Directory:
    """The first directory of a TIFF file: whole numbers of 16 and 32 bits."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size = file, file.seek(0, io.SEEK_END)
        self.fields: dict[int, tuple[int, int, bytes]] = {}
        """Tag -> type, number of values, and values or their place."""
        head = self._bytes(0, min(8, self.size))
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4], "")
        self.is_tiff, self.has_next = len(head) == 8 and bool(self.order), False
        if not self.is_tiff:
            return
        (place,) = self._unpacked("L", head[4:])
        (count,) = self._unpacked("H", self._bytes(place, 2))
        content = self._bytes(place + 2, 12 * count + 4)
        for start in range(0, 12 * count, 12):
            tag, kind, number = self._unpacked("HHL", content[start : start + 8])
            if kind in _TYPES:
                self.fields.setdefault(tag, (kind, number, content[start + 8 : start + 12]))
        self.has_next = content[12 * count :] != bytes(4)

    def one(self, tag: int, default: int) -> int:
        """The only value of a tag."""
        return self.several(tag, 1)[0] if tag in self.fields else default

    def several(self, tag: int, count: int) -> tuple[int, ...]:
        """The values of a tag, which must be so many.

        Raises
        ------
        ValueError
            If they are not.
        """
        kind, number, place = self.fields.get(tag, (_SHORT, 0, b""))
        if number != count:
            raise ValueError(f"tag {tag} has {number} values, {count} are needed")
        size = number * struct.calcsize(f"={_TYPES[kind]}")
        content = place if size <= 4 else self._bytes(self._unpacked("L", place)[0], size)
        return self._unpacked(f"{number}{_TYPES[kind]}", content[:size])

    def _bytes(self, place: int, count: int) -> bytes:
        if place + count > self.size:
            raise ValueError("the directory reaches beyond the end of the file")
        self._file.seek(place)
        return self._file.read(count)

    def _unpacked(self, form: str, content: bytes) -> tuple[int, ...]:
        return struct.unpack(self.order + form, content)


def _of_bytes(content: bytes, fields: dict[int, Sequence[int]]) -> bytes:
    """The content of a TIFF file with another directory, behind it, of 32-bit numbers."""
    start = len(content) + len(content) % 2
    entries, behind = [], b""
    end = start + 2 + 12 * len(fields) + 4
    for tag, values in sorted(fields.items()):
        packed = struct.pack(f"<{len(values)}L", *values)
        if len(packed) > 4:
            packed, behind = struct.pack("<L", end + len(behind)), behind + packed
        entries.append(struct.pack("<HHL", tag, _LONG, len(values)) + packed)
    directory = struct.pack("<H", len(fields)) + b"".join(entries) + bytes(4) + behind
    return (
        b"II*\0" + struct.pack("<L", start) + content[8:] + bytes(start - len(content)) + directory
    )
