"""A `.npz` file of numpy arrays: `x_train y_train [x_val y_val] [x_test y_test]` or `x y`."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import plugins
from lepton_automl.data.decode import to_uint8
from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import DataError

_PARTS = {"train": "train", "val": "validation", "test": "test"}
"""Suffix of a key -> part."""

_LIKELY = re.compile(r"(x|y|group)(_.*)?|class_?names?", re.IGNORECASE)
# Keys that are read or similar: a misspelt one is an error, all others are ignored.

Array = NDArray[Any]

_LAYOUTS = "(N, H, W), (N, H, W, 1), (N, H, W, 3), (N, 1, H, W) or (N, 3, H, W)"


class Npz(Source):
    """Pictures and labels as arrays; optional `group` or `group_train` ..., and `class_names`.

    Pixels: whole numbers 0 to 255 as they are; uint16 above 255 is 0 to 65535, divided by 257;
    floats all within 0 to 1 are multiplied by 255, floats within 0 to 255 rounded; decided over
    all parts together. Labels: whole numbers (indices into `class_names`; without it the numbers
    are the names), texts, or one-hot rows.
    """

    def accepts(self, data: str) -> bool:
        return data.lower().endswith(".npz")

    def read(self, data: str) -> Samples:
        arrays = _load(Path(data))
        names = _names(data, arrays)
        xs = [_pictures(f"{data}: {name}", arrays[name]) for name in names]
        ys = [_labels(f"{data}: y{name[1:]}", arrays["y" + name[1:]]) for name in names]
        for name, x, y in zip(names, xs, ys, strict=True):
            if len(x) != len(y):
                raise DataError(
                    f"{data}: {name} has {len(x)} pictures but y{name[1:]} {len(y)} labels",
                    fix="give as many labels as pictures",
                )
        for name, x in zip(names, xs, strict=True):
            if not len(x) and any(len(other) for other in xs):
                raise DataError(
                    f"{data}: the {_PARTS.get(name[2:], name)} part is empty: {name} has length 0",
                    fix=f"put pictures into {name}"
                    + ("" if name == "x_train" else ", or leave it out: a part is drawn then"),
                )
        if len({x.shape[1:] for x in xs}) > 1:
            shapes = ", ".join(f"{n} {x.shape[1:]}" for n, x in zip(names, xs, strict=True))
            raise DataError(f"{data}: pictures differ in shape: {shapes}", fix="give one shape")
        class_names, labels = _classes(data, names, ys, arrays.get("class_names"))
        parts = [_PARTS.get(name[2:], "") for name in names]
        return Samples(
            pictures=_pixels(data, names, xs),
            labels=labels,
            class_names=class_names,
            ids=tuple(f"{n}[{i}]" for n, x in zip(names, xs, strict=True) for i in range(len(x))),
            parts=np.repeat(np.array(parts, "<U10"), [len(x) for x in xs]),
            groups=_groups(data, names, [len(x) for x in xs], arrays),
        )


def _load(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _not_npz(path, "it holds one bare array")
            wanted = [key for key in archive.files if _LIKELY.fullmatch(key)]
            with archive:
                return {key: _array(path, archive, key) for key in wanted}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise _not_npz(path, str(reason)) from error


def _array(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> Array:
    try:
        array: Array = archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: {key} is an array of Python objects, which would have to be unpickled; "
            "only numbers and texts are read",
            fix=f"save plain numbers: np.stack({key}).astype(np.uint8) for pictures, "
            f"np.asarray({key}.tolist()) for labels; pictures of several sizes go into a folder",
        ) from error
    return array


def _not_npz(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not a readable .npz file: {reason}",
        fix="write it again with np.savez(path, x_train=..., y_train=...)",
    )


def _names(data: str, arrays: dict[str, Array]) -> list[str]:
    """Keys of the picture arrays, checked to have labels: x alone, or x_train and others."""
    xs = ["x", *(f"x_{part}" for part in _PARTS)]
    known = [letter + name[1:] for letter in ("x", "y", "group") for name in xs]
    for key in arrays:
        if key not in [*known, "class_names"]:
            near = plugins.unknown_name(key, [*known, "class_names"], "key of a data file")
            raise DataError(f"{data}: {key!r} is an unknown key", fix=near.fix)
    names = [name for name in xs if name in arrays]
    if not names or ("x" in names and len(names) > 1):
        raise DataError(
            f"{data}: of x, x_train, x_val and x_test there is {', '.join(names) or 'none'}",
            fix="give x and y, or x_train and y_train, optionally x_val, y_val, x_test and y_test",
        )
    for key in arrays:
        ending = key.removeprefix("group") if key[0] == "g" else key[1:]
        for pair in ("x" + ending, "y" + ending):
            if key != "class_names" and pair not in arrays:
                raise DataError(f"{data}: {key} without {pair}", fix=f"give {pair} or drop {key}")
    return names


def _pictures(what: str, x: Array) -> Array:
    """Bring pictures to (N, H, W, 1 or 3); an error where the shape is ambiguous."""
    if x.dtype.kind not in "buif":
        raise DataError(f"{what} is {x.dtype}, not numbers", fix="give pixels as numbers")
    if 0 in x.shape[1:]:
        raise DataError(f"{what} has shape {x.shape}: no pixels", fix=f"give {_LAYOUTS}")
    if x.ndim == 3:
        return x[..., None]
    if x.ndim != 4:
        raise DataError(f"{what} has shape {x.shape}", fix=f"reshape it to {_LAYOUTS}")
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first and last:
        raise DataError(
            f"{what} has shape {x.shape}: channels could come first or last",
            fix="give grey pictures as (N, H, W), or at least 4 pixels a side",
        )
    if not first and not last:
        raise DataError(
            f"{what} has shape {x.shape}: no 1 or 3 channels, first or last",
            fix=f"give {_LAYOUTS}; blend four channels with a background first",
        )
    return np.moveaxis(x, 1, 3) if first else x


def _pixels(data: str, names: list[str], xs: list[Array]) -> NDArray[np.uint8]:
    """Convert the pixels of all parts together to uint8 (N, H, W, C), as `Npz` describes."""
    kinds = {x.dtype.kind.replace("i", "u") for x in xs}
    if len(kinds) > 1:
        found = ", ".join(f"{n} {x.dtype}" for n, x in zip(names, xs, strict=True))
        raise DataError(f"{data}: pixels of several kinds: {found}", fix="give one dtype")
    for name, x in zip(names, xs, strict=True):
        if x.dtype.kind == "f":
            _finite(f"{data}: {name}", x)
    filled = [x for x in xs if x.size]
    if not filled:
        raise DataError(f"{data} holds no pictures: {names[0]} has length 0", fix="give pictures")
    low, high = min(x.min() for x in filled), max(x.max() for x in filled)
    scale = _scale(
        data, kinds.pop(), all(x.dtype == np.uint16 for x in xs), float(low), float(high)
    )
    return np.ascontiguousarray(np.concatenate([scale(x) for x in xs]))


def _finite(what: str, x: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(1))
    if len(bad):
        raise DataError(
            f"{what} has NaN or infinite pixels in {len(bad)} of {len(x)} pictures, "
            f"the first is {what.rsplit(' ', 1)[-1]}[{bad[0]}]",
            fix="repair these pictures or remove them",
        )


def _scale(
    data: str, kind: str, is_uint16: bool, low: float, high: float
) -> Callable[[Array], NDArray[np.uint8]]:
    """Conversion to uint8 for pixels between `low` and `high`."""
    if kind == "b" or (kind == "f" and low >= 0 and high <= 1):
        return lambda x: np.rint(x.astype(np.float32) * 255).astype(np.uint8)
    if low >= 0 and high <= 255:
        return lambda x: (np.rint(x) if kind == "f" else x).astype(np.uint8)
    if is_uint16:
        return to_uint8
    raise DataError(
        f"{data}: pixels from {low:g} to {high:g}; whole numbers 0 to 255, uint16 0 to 65535, or "
        "floats 0 to 1 or 0 to 255 are read",
        fix="give raw pixels: lepton computes mean and deviation itself",
    )


def _labels(what: str, y: Array) -> Array:
    """Convert labels to int64 (N,) or text (N,)."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "buif" and _is_one_hot(y):
        y = y.argmax(1)
    if y.ndim != 1:
        raise DataError(f"{what} has shape {y.shape}", fix="give one label a picture, shape (N,)")
    if y.dtype.kind == "S":
        return np.char.decode(y, "utf-8")
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind not in "buif" or not (np.isfinite(y).all() and (y == np.rint(y)).all()):
        raise DataError(
            f"{what} is {y.dtype} and not whole numbers or texts",
            fix="give the number or the name of a class for each picture",
        )
    return y.astype(np.int64)


def _is_one_hot(y: Array) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def _classes(
    data: str, names: list[str], ys: list[Array], given: Array | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and the labels of all parts as indices into them."""
    if len({y.dtype.kind for y in ys}) > 1:
        raise DataError(f"{data}: labels are numbers and texts", fix="give one kind of labels")
    y = np.concatenate(ys)
    ids = [f"y{n[1:]}[{i}]" for n, part in zip(names, ys, strict=True) for i in range(len(part))]
    if given is None:
        known, places = np.unique(y, return_inverse=True)
        if y.dtype.kind == "i" and len(y) and known[0] < 0:
            raise _no_class(data, ids[int(y.argmin())], known[0], "whole numbers from 0")
        return tuple(str(name) for name in known), places.astype(np.int64)
    class_names = _class_names(data, given)
    if y.dtype.kind == "U":
        place = {name: n for n, name in enumerate(class_names)}
        y = np.array([place.get(name, -1) for name in y.tolist()], np.int64)
    bad = np.flatnonzero((y < 0) | (y >= len(class_names)))
    if len(bad):
        value = np.concatenate(ys)[bad[0]]
        rule = f"0 to {len(class_names) - 1}, or one of: {', '.join(class_names[:20])}"
        raise _no_class(data, ids[bad[0]], value, rule)
    return class_names, y


def _no_class(data: str, where: str, value: object, rule: str) -> DataError:
    return DataError(
        f"{data}: label {where} = {value}, the rule is {rule}",
        fix="correct the label or remove the picture",
    )


def _class_names(data: str, given: Array) -> tuple[str, ...]:
    if given.ndim != 1 or given.dtype.kind not in "USiu":
        raise DataError(
            f"{data}: class_names is {given.dtype} {given.shape}", fix="give a list of texts"
        )
    texts = np.char.decode(given, "utf-8") if given.dtype.kind == "S" else given
    return tuple(str(name) for name in texts.tolist())


def _groups(
    data: str, names: list[str], counts: list[int], arrays: dict[str, Array]
) -> NDArray[np.int64] | None:
    """Group number of each sample; in a part without groups each sample is its own group."""
    keys = [f"group{name[1:]}" for name in names]
    if not any(key in arrays for key in keys):
        return None
    texts: list[str] = []
    for key, count in zip(keys, counts, strict=True):
        column = arrays.get(key, np.array([f"{key}[{i}]" for i in range(count)]))
        if column.shape != (count,) or column.dtype.kind not in "USiu":
            raise DataError(
                f"{data}: {key} is {column.dtype} {column.shape}",
                fix=f"give {count} whole numbers or texts, one a picture",
            )
        texts += [str(value) for value in column.tolist()]
    return np.unique(texts, return_inverse=True)[1].astype(np.int64)
