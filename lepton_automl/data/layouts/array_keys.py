"""Recognise what named arrays hold: `x_train y_train [x_test y_test]`, `x y`, and other words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from lepton_automl.core import plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_arrays import Header
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.text import printable

_WORDS = {
    "x": "x xs image images img imgs picture pictures pixel pixels data input inputs "
    "signal signals window windows series",
    "y": "y ys label labels target targets",
    "group": "group groups",
}
"""What a key names -> words for it; each may stand with the name of a part."""
_PART_WORDS = {
    "train": "train training",
    "val": "val valid validation dev",
    "test": "test testing",
}
PART_NAMES = {"": "", "train": "train", "val": "validation", "test": "test"}
"""Part in a key -> part; empty for samples without a part."""
_CLASS_NAMES = {"classnames", "classname", "labelnames", "targetnames"}
_UNNAMED = re.compile(r"arr_\d+")
"""Keys that `numpy.savez` gives to arrays without names."""

_LIKELY = re.compile(r"(x|y|group)[_-].*", re.IGNORECASE)
# Keys that look like one of ours: a misspelt one is an error, all others are ignored.

_MOST_KEYS = 12
"""Keys that an error lists."""

Array = NDArray[Any]
Key = tuple[str, str]
"""What a key names (`x`, `y`, `group`, `class_names`), and of which part."""


class NamedArrays(Protocol):
    """Arrays under keys, such as those of an `.npz` file."""

    @property
    def files(self) -> list[str]:
        """The keys, in their order."""

    def headers(self) -> dict[str, Header]:
        """Shape and type of each array that can be read."""

    def read(self, key: str) -> Array:
        """Read an array.

        Raises
        ------
        ObjectArrayError
            If it is an array of Python objects.
        """


def keys_of(data: str, archive: NamedArrays, columns: Mapping[str, str]) -> dict[Key, str]:
    """Which key holds what, pictures in the order of the parts; checked to be complete."""
    stated = _stated(data, archive, columns)
    if not stated:
        _check_spelling(data, archive)
    named = _named(data, archive, stated) or _unnamed(archive)
    found = {key: name for key, name in named.items() if key not in stated} | stated
    if any(what == "x" for what, _ in stated):  # Then other pictures are not guessed.
        found = {
            (what, part): name
            for (what, part), name in found.items()
            if what == "class_names" or ("x", part) in stated or (what, part) in stated
        }
    parts = [part for part in PART_NAMES if ("x", part) in found]
    if not parts or ("" in parts and parts not in ([""], ["", "test"])):
        given = ", ".join(found["x", part] for part in parts) or "none"
        raise _wrong_keys(
            data,
            archive,
            f"of x, x_train, x_val and x_test there is {given}",
            _way_to_name_keys(archive),
        )
    if ("y", "test") not in found and ("x", "test") not in stated and len(parts) > 1:
        found.pop(("group", "test"), None)
        found.pop(("x", "test"), None)
    for (what, part), key in found.items():
        for pair in ("x", "y"):
            if what != "class_names" and (pair, part) not in found:
                lacking = pair + (f"_{part}" if part else "")
                raise _wrong_keys(
                    data, archive, f"{key} without {lacking}", f"give {lacking} or drop {key}"
                )
    order = [(what, part) for part in PART_NAMES for what in _WORDS]
    return {key: found[key] for key in (*order, ("class_names", "")) if key in found}


def _way_to_name_keys(archive: NamedArrays) -> str:
    """How to say which arrays are pictures and labels: with their keys where shapes tell them."""
    shapes = {key: header.shape for key, header in archive.headers().items()}
    if len(archive.files) == 1:
        return (
            "store pictures and labels in one file, numpy.savez(FILE, x=pictures, y=labels), or "
            "pictures in a folder for each class"
        )
    pictures = [key for key, shape in shapes.items() if len(shape) >= 2]
    labels = [key for key, shape in shapes.items() if len(shape) == 1]
    if len(pictures) == len(labels) == 1 and shapes[pictures[0]][0] == shapes[labels[0]][0]:
        columns = shlex.quote(f"x={pictures[0]},y={labels[0]}")
        return f"state them, if these are pictures and labels: --columns {columns}"
    return (
        "state the keys: --columns x=KEY,y=KEY or x_train=KEY,y_train=KEY,x_test=KEY,y_test=KEY; "
        "understood without it: x or x_train, x_val and x_test, also images, pictures, pixels, "
        "data or inputs, with y, labels or targets"
    )


def _check_spelling(data: str, archive: NamedArrays) -> None:
    for key in archive.files:
        if _LIKELY.fullmatch(key) and key_meaning(key) is None:
            known = [f"{word}_{part}" for word in ("x", "y", "group") for part in _PART_WORDS]
            near = plugins.unknown_name(key, [*known, "class_names"], "key of a data file")
            raise _wrong_keys(data, archive, f"{key!r} is an unknown key", near.fix)


def _stated(data: str, archive: NamedArrays, columns: Mapping[str, str]) -> dict[Key, str]:
    """What `--columns` says of keys."""
    roles = [f"{what}_{part}".rstrip("_") for what in _WORDS for part in PART_NAMES]
    found: dict[Key, str] = {}
    for role, key in columns.items():
        meaning = key_meaning(role, only_first_words=True)
        if meaning is None:
            error = plugins.unknown_name(role, [*roles, "class_names"], "kind of array")
            raise ConfigError(f"--columns {role}={key}: {error.what} of {data}", fix=error.fix)
        if key not in archive.files:
            error = plugins.unknown_name(key, archive.files[:50], "key")
            raise ConfigError(f"--columns {role}={key}: {error.what} of {data}", fix=error.fix)
        found[meaning] = key
    return found


def _named(data: str, archive: NamedArrays, stated: Mapping[Key, str]) -> dict[Key, str]:
    """What keys with names hold; other words than x, y and group count where these are missing."""
    plain: dict[Key, list[str]] = {}
    others: dict[Key, list[str]] = {}
    for key in archive.files:
        meaning = key_meaning(key)
        if meaning is not None and meaning not in stated and key not in stated.values():
            is_plain = key_meaning(key, only_first_words=True) is not None
            (plain if is_plain else others).setdefault(meaning, []).append(key)
    pairs = [(("x", part) in plain, ("y", part) in plain) for part in PART_NAMES]
    is_complete = any(x for x, _ in pairs) and all(x == y for x, y in pairs)
    found = plain if is_complete else others | plain
    for keys in found.values():
        if len(keys) > 1:
            what = f"{' and '.join(keys)} mean the same"
            raise _wrong_keys(data, archive, what, "keep one of them")
    return {meaning: keys[0] for meaning, keys in found.items()}


def meaning(key: str) -> str:
    """What the name of an array or a field holds: `x`, `y`, `group`, `class_names`, or nothing."""
    found = key_meaning(key)
    return "" if found is None else found[0]


def key_meaning(key: str, *, only_first_words: bool = False) -> Key | None:
    """What a key names and of which part: (`x`, `train`) for `X_train` and `trainImages`."""
    plain = re.sub(r"[\W_]+", "", key).lower()
    if plain in _CLASS_NAMES:
        return "class_names", ""
    ends = {word: part for part, words in _PART_WORDS.items() for word in words.split()}
    for what, words in _WORDS.items():
        for word in words.split()[: 1 if only_first_words else None]:
            if plain == word:
                return what, ""
            for end, part in ends.items():
                if plain in (word + end, end + word):
                    return what, part
    return None


def _unnamed(archive: NamedArrays) -> dict[Key, str]:
    """Pictures and labels among arrays that have no names, told apart by their shapes.

    Two arrays are undivided pictures and their labels. Four are those of train, then of test, as
    `numpy.savez(path, x_train, y_train, x_test, y_test)` stores them, in any order in which each
    has its own number of pictures.
    """
    keys = [key for key in archive.files if _UNNAMED.fullmatch(key)]
    if len(keys) not in (2, 4) or len(keys) != len(archive.files):
        return {}
    shapes = {key: header.shape for key, header in archive.headers().items()}
    pictures = [key for key in keys if len(shapes.get(key, ())) in (3, 4)]
    labels = [key for key in keys if len(shapes.get(key, ())) in (1, 2)]
    if len(pictures) != len(keys) / 2 or len(labels) != len(pictures):
        return {}
    lengths = [shapes[key][0] for key in pictures]
    of_length = {shapes[key][0]: key for key in labels}
    if len(set(lengths)) < len(lengths) or set(lengths) != set(of_length):
        return {}
    parts = [""] if len(keys) == 2 else ["train", "test"]
    pairs = list(zip(parts, pictures, lengths, strict=True))
    found = {("x", part): key for part, key, _ in pairs}
    return found | {("y", part): of_length[length] for part, _, length in pairs}


def key_decision(
    keys: Mapping[Key, str], columns: Mapping[str, str] | None
) -> tuple[Decision, ...]:
    """Which array was taken for what, where their names do not say it plainly."""
    plain = {f"{what}_{part}".rstrip("_"): key for (what, part), key in keys.items()}
    inferred = {role: key for role, key in plain.items() if role not in (columns or {})}
    if all(role == key.lower() for role, key in inferred.items()):
        return ()
    chosen = ", ".join(f"{role} is {printable(key)}" for role, key in plain.items())
    evidence = "names of the arrays"
    if any(_UNNAMED.fullmatch(key) for key in inferred.values()):
        evidence = "order and shapes of arrays without names"
    return (Decision("columns", chosen, evidence, "inferred", "--columns"),)


def _wrong_keys(data: str, archive: NamedArrays, what: str, fix: str) -> DataError:
    """An error about the keys of a file, with those that are there."""
    headers = archive.headers()
    there = [f"{key} {each.dtype} {each.shape}" for key, each in headers.items()]
    unread = [key for key in archive.files if key not in headers]
    there += [f"{key} (Python objects, or damaged)" for key in unread]
    if unread:
        fix += (
            "; arrays of Python objects are not read, since that can run code in them: load them "
            "yourself and write numbers with np.savez"
        )
    more = f" and {len(there) - _MOST_KEYS} more" if len(there) > _MOST_KEYS else ""
    return DataError(
        f"{data}: {what}; it holds {', '.join(there[:_MOST_KEYS]) or 'no arrays'}{more}", fix=fix
    )
