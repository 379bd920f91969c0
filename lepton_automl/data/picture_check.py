"""Check one picture: that it can be read, its size, colour and levels, its digest and thumbnail.

The results of many pictures are packed into bytes, to be passed between processes and kept in
files (`picture_check_cache`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.data.pictures import decode, picture_files
from lepton_automl.data.pictures.decode import PictureInfo
from lepton_automl.data.pictures.levels import Levels
from lepton_automl.data.pictures.picture_files import REPAIR, Picture, PictureFile
from lepton_automl.errors import DataError

THUMBNAIL = 32
"""Rows and columns of a thumbnail."""
_DIGEST = 32
"""Bytes of a SHA-256."""
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {"int": (int,), "bool": (bool,), "float": (float,)}
"""Annotation of a field -> types of its value."""


@dataclass(frozen=True, eq=False)
class CheckedPicture:
    """What is known of a picture that has been read completely."""

    info: PictureInfo
    digest: bytes
    """SHA-256 of the pixels, where they are stored without loss; else of the file."""
    thumb: NDArray[np.uint8]
    """(`THUMBNAIL`, `THUMBNAIL`): `decode.thumbnail` with the scale of 16 bits."""


CheckResult = CheckedPicture | DataError
"""What is known of a picture, or why it cannot be read."""


def check_one(picture: Picture) -> CheckResult:
    """Read a picture completely."""
    try:
        if isinstance(picture, np.ndarray):
            return _of_array(picture)
        return _of_file(picture)
    except DataError as error:
        return error


def _of_array(pixels: NDArray[np.uint8]) -> CheckedPicture:
    height, width, *channels = pixels.shape
    digest = hashlib.sha256(pixels.tobytes()).digest()
    is_grey = channels in ([], [1])
    info = PictureInfo((height, width), is_grey, Levels.of(pixels), pixel_digest=digest)
    return CheckedPicture(info, digest, decode.thumbnail(pixels, THUMBNAIL))


def _of_file(path: PictureFile) -> CheckedPicture:
    info, thumb = decode.check_with_thumbnail(path, THUMBNAIL)
    if thumb is None:
        thumb = decode.thumbnail(path, THUMBNAIL)
    if info.pixel_digest is not None:
        return CheckedPicture(info, info.pixel_digest, thumb)
    with picture_files.open_picture(path) as file:
        return CheckedPicture(info, hashlib.file_digest(file, "sha256").digest(), thumb)


def pack(results: Sequence[CheckResult]) -> bytes:
    """The results of `check_one` as one line of JSON, digests and thumbnails."""
    found = [each for each in results if isinstance(each, CheckedPicture)]
    header = {
        "errors": {
            n: each.what for n, each in enumerate(results) if not isinstance(each, CheckedPicture)
        },
        "is_of_pixels": [each.info.pixel_digest is not None for each in found],
        "info": _columns([each.info for each in found], PictureInfo),
        "levels": _columns([each.info.levels for each in found], Levels),
    }
    thumbs = np.stack([each.thumb for each in found]).tobytes() if found else b""
    line = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    return line + b"".join(each.digest for each in found) + thumbs


def unpack(content: bytes | memoryview, count: int) -> list[CheckResult]:
    """The `count` results that `pack` wrote.

    Raises
    ------
    ValueError, TypeError, KeyError
        If it is something else.
    """
    view = memoryview(content)
    end = bytes(view).index(b"\n") + 1
    header = json.loads(bytes(view[:end]))
    errors = {int(n): str(what) for n, what in header["errors"].items()}
    known = count - len(errors)
    if len(view) - end != known * (_DIGEST + THUMBNAIL**2) or not errors.keys() <= set(
        range(count)
    ):
        raise ValueError(f"it does not hold {count} results")
    digests = bytes(view[end : end + known * _DIGEST])
    thumbs = np.frombuffer(view[end + known * _DIGEST :], np.uint8)
    thumbs = thumbs.reshape(known, THUMBNAIL, THUMBNAIL)
    levels = [Levels(*row) for row in _rows(header["levels"], Levels, known)]
    infos = _rows(header["info"], PictureInfo, known)
    names = [each.name for each in _fields(PictureInfo)]
    found = []
    for n, (row, level, is_of_pixels) in enumerate(
        zip(infos, levels, header["is_of_pixels"], strict=True)
    ):
        digest = digests[n * _DIGEST : (n + 1) * _DIGEST]
        info = PictureInfo(
            levels=level,
            pixel_digest=digest if is_of_pixels else None,
            **dict(zip(names, row, strict=True)),
        )
        found.append(CheckedPicture(info, digest, thumbs[n]))
    rest = iter(found)
    return [DataError(errors[n], fix=REPAIR) if n in errors else next(rest) for n in range(count)]


def _fields(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields that are plain values."""
    return [
        each for each in dataclasses.fields(kind) if each.name not in {"levels", "pixel_digest"}
    ]


def _columns(rows: Sequence[Any], kind: type[Any]) -> dict[str, list[Any]]:
    return {each.name: [getattr(row, each.name) for row in rows] for each in _fields(kind)}


def _rows(columns: Mapping[str, list[Any]], kind: type[Any], count: int) -> list[tuple[Any, ...]]:
    """Values of the fields of each of `count` objects of a dataclass.

    Raises
    ------
    ValueError, KeyError
        If a column is missing, of another length, or of another type.
    """
    made = []
    for field in _fields(kind):
        column = columns[field.name]
        wanted = _JSON_TYPES.get(str(field.type))
        if len(column) != count or (wanted and not all(type(v) in wanted for v in column)):
            raise ValueError(f"{field.name} has wrong values")
        if wanted is None:
            column = [tuple(value) if isinstance(value, list) else value for value in column]
        made.append(column)
    return list(zip(*made, strict=True))
