"""Read PNG files of the simplest form at a fraction of the time that Pillow's classes take.

Small pictures take longer in Python than in the decoder. Pillow's own decoder is given the data of
a file that has nothing but a head of 8 bits a channel, data, an end, and perhaps chunks that no
pixel depends on; all others, damaged ones too, are left to `Image.open`, so that pixels and errors
are the same.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_HEAD = (12, 29)
"""Where the head begins and ends; its checksum comes after it."""
_FORMS = {b"\x08\0\0\0\0": "L", b"\x08\x02\0\0\0": "RGB"}
"""Bits, colour, compression, filter and interlace of the head -> mode; the usual ones only."""
_FIRST = 33
"""Place of the first chunk after the head."""
_END = b"\0\0\0\0IEND\xaeB`\x82"
_NO_MATTER = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
"""Chunks that Pillow reads and that change no pixel, with the lengths of their data."""
_SIZE, _CHUNK = struct.Struct(">II"), struct.Struct(">I4s")


def read(content: bytes, most: int) -> Image.Image | None:
    """The picture in a file; None where it has to be opened otherwise.

    Parameters
    ----------
    content : bytes
        Of the file.
    most : int
        Pixels up to which a picture is read here.
    """
    if not content.startswith(_START) or not content.endswith(_END):
        return None
    mode, size = _FORMS.get(content[24:29]), _SIZE.unpack_from(content, 16)
    if mode is None or not 0 < size[0] * size[1] <= most:
        return None
    if not _is_whole(content, *_HEAD) or (data := _data(content)) is None:
        return None
    try:
        return Image.frombytes(mode, size, data, "zip", mode)
    except (ValueError, OSError):
        return None


def _data(content: bytes) -> bytes | None:
    """The compressed rows; None if there are other chunks than those that are read here."""
    parts, place, end = list[bytes](), _FIRST, len(content) - len(_END)
    while place < end:
        length, name = _CHUNK.unpack_from(content, place)
        stop = place + 8 + length
        if name == b"IDAT":
            parts.append(content[place + 8 : stop])
        elif parts or _NO_MATTER.get(name) != length or not _is_whole(content, place + 4, stop):
            return None
        place = stop + 4
    if place != end:
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_whole(content: bytes, start: int, stop: int) -> bool:
    """Whether the checksum after a part of the content is that of the part."""
    return content[stop : stop + 4] == zlib.crc32(content[start:stop]).to_bytes(4)
