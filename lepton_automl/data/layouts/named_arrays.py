"""Pictures or signals, and labels, among named arrays: `x_train y_train [x_test y_test]`, or `x y`.

Floats and signed integers (N, length, channels) or (N, channels, length) are signals.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays, plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_arrays import Header, ObjectArrayError
from lepton_automl.data.pictures import pixel_scale
from lepton_automl.data.pictures.pixel_scale import RawArray
from lepton_automl.data.samples import RawSamples, Samples
from lepton_automl.data.signals import (
    MAX_CHANNELS,
    Layout,
    Signals,
    kind_decision,
    layout_of,
    to_signals,
    type_of_signals,
)
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
_PART_NAMES = {"": "", "train": "train", "val": "validation", "test": "test"}
"""Part in a key -> part; empty for samples without a part."""
_SIGNAL_WORDS = ("signal", "window", "series")
_CLASS_NAMES = {"classnames", "classname", "labelnames", "targetnames"}
_UNNAMED = re.compile(r"arr_\d+")
"""Keys that `numpy.savez` gives to arrays without names."""

_LIKELY = re.compile(r"(x|y|group)[_-].*", re.IGNORECASE)
# Keys that look like one of ours: a misspelt one is an error, all others are ignored.

_MOST_KEYS = 12
"""Keys that an error lists."""

Array = NDArray[Any]

_LAYOUTS = f"(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to {MAX_CHANNELS} channels"
_USUAL = (1, 3)
"""Channels of grey and of RGB pictures: an axis of that length is that of the channels."""


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


class MemoryArrays:
    """Arrays in memory, which a source has read from files of another format."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    @property
    def files(self) -> list[str]:
        return list(self._arrays)

    def headers(self) -> dict[str, Header]:
        return {key: Header(a.shape, a.dtype, False, 0) for key, a in self._arrays.items()}

    def read(self, key: str) -> Array:
        return self._arrays[key]


def read_raw(
    data: str,
    archive: NamedArrays,
    columns: Mapping[str, str] | None = None,
    channel_axis: str | None = None,
    notes: Sequence[str] = (),
) -> RawSamples | Samples:
    """Find pictures or signals, and labels, among arrays, with optional groups and class names.

    Keys (`_WORDS` and `_PART_WORDS`, in upper or lower case): one name for pictures and one for
    labels, alone or with the name of a part before or after them: `x`, `y`, `X_train`,
    `test_labels`. Arrays without names (`arr_0`, `arr_1`, ...) are pictures and labels by their
    shapes. Labels: whole numbers (indices into `class_names`; without it the numbers are the
    names), texts, or one-hot rows.

    Parameters
    ----------
    data : str
        Name of the data in messages.
    archive : NamedArrays
        The arrays.
    columns : mapping of str to str, optional
        What a key holds (`x`, `y`, `group`, `x_train`, ..., `class_names`) -> the key.
    channel_axis : {"first", "last"}, optional
        Where the channels are; None: by the shape. Floats and signed integers of three axes for
        which it is stated are signals.
    notes : sequence of str
        Remarks for the user.

    Raises
    ------
    DataError
        If the arrays cannot be used.
    ConfigError
        If an option does not fit them.
    """
    arrays, keys = _load(data, archive, columns)
    parts = list(arrays.pictures)
    layout = _signal_layout(data, arrays.pictures, keys, channel_axis)
    xs = [
        RawArray(
            keys["x", part],
            _PART_NAMES[part],
            x if layout else to_pictures(f"{data}: {keys['x', part]}", x, channel_axis),
        )
        for part, x in arrays.pictures.items()
    ]
    ys = [_labels(f"{data}: {keys['y', part]}", arrays.labels[part]) for part in parts]
    _check_lengths(data, xs, [(keys["y", p], len(y)) for p, y in zip(parts, ys, strict=True)])
    shapes = {keys["x", part]: x.shape for part, x in arrays.pictures.items()}
    decisions = _key_decision(keys, columns)
    if layout is None:
        decisions += _axis_decision(data, shapes, channel_axis)
    names = [keys["y", part] for part in parts]
    class_names, labels = _classes(data, names, ys, arrays.class_names)
    counts = [len(x.values) for x in xs]
    groups = _groups(data, parts, counts, arrays.groups, keys)
    build = functools.partial(
        Samples,
        labels=labels,
        class_names=class_names,
        ids=tuple(f"{x.name}[{i}]" for x in xs for i in range(len(x.values))),
        parts=np.repeat(np.array([x.part for x in xs], "<U10"), counts),
        groups=groups,
        decisions=decisions,
        notes=(*notes, *_unlabelled_notes(data, archive, keys)),
        value_type=type_of_signals(x.values for x in xs),
    )
    if layout is None:
        return RawSamples(tuple(xs), build)
    is_stated = channel_axis is not None or _is_named_signal(xs[0].name)
    if is_stated:
        return build(pictures=_joined(data, xs, layout))
    made = kind_decision(xs[0].name, xs[0].values, layout)
    pictures = [
        dataclasses.replace(x, values=to_pictures(f"{data}: {x.name}", x.values, None)) for x in xs
    ]

    def signals() -> Samples:
        return build(pictures=_joined(data, xs, layout), decisions=(*decisions, made))

    return RawSamples(tuple(pictures), build, signals)


def _unlabelled_notes(data: str, archive: NamedArrays, keys: Mapping[_Key, str]) -> tuple[str, ...]:
    """That a test part without labels was left out; nothing where there is none."""
    left = [key for key in archive.files if _meaning(key) == ("x", "test")]
    if not left or ("x", "test") in keys or ("x", "") in keys:
        return ()
    return (
        f"{data}: {left[0]} has no labels and is left out: a test part is drawn from the rest; "
        "save its samples as files to classify them with `lepton predict`",
    )


def _check_lengths(data: str, xs: list[RawArray], labels: list[tuple[str, int]]) -> None:
    """Check that samples and labels (name, number) of each part are as many, and of one shape."""
    for x, (name, count) in zip(xs, labels, strict=True):
        if len(x.values) != count:
            raise DataError(
                f"{data}: {x.name} has {len(x.values)} samples but {name} {count} labels",
                fix="give as many labels as samples",
            )
    for x in xs:
        if not len(x.values) and any(len(other.values) for other in xs):
            raise DataError(
                f"{data}: the {x.part or x.name} part is empty: {x.name} has length 0",
                fix=f"put samples into {x.name}"
                + ("" if x.part == "train" else ", or leave it out: a part is drawn then"),
            )
    if len({x.values.shape[1:] for x in xs}) > 1:
        shapes = ", ".join(f"{x.name} {x.values.shape[1:]}" for x in xs)
        raise DataError(f"{data}: samples differ in shape: {shapes}", fix="give one shape")


def _joined(data: str, xs: Sequence[RawArray], layout: Layout) -> Signals:
    values = [to_signals(f"{data}: {x.name}", x.values, layout) for x in xs]
    return values[0] if len(values) == 1 else large_arrays.join(values)


def _is_named_signal(key: str) -> bool:
    """Whether the name of an array says that it holds signals."""
    return any(word in re.sub(r"[\W_]+", "", key).lower() for word in _SIGNAL_WORDS)


def _signal_layout(
    data: str, arrays: Mapping[str, Array], keys: Mapping[_Key, str], channel_axis: str | None
) -> Layout | None:
    """Which axis holds the channels, where the arrays hold signals; None: pictures."""
    layouts = {layout_of(x.shape) for x in arrays.values()}
    layout = layouts.pop() if len(layouts) == 1 else None
    named = [key for (what, _), key in keys.items() if what == "x" and _is_named_signal(key)]
    is_measured = bool(named) or all(x.dtype.kind in "fi" for x in arrays.values())
    if channel_axis is not None and is_measured and all(x.ndim == 3 for x in arrays.values()):
        layout = "channels first" if channel_axis == "first" else "channels last"
        axis = 1 if channel_axis == "first" else 2
        if any(x.shape[axis] > MAX_CHANNELS for x in arrays.values()):
            shapes = ", ".join(f"{keys['x', part]} {x.shape}" for part, x in arrays.items())
            raise ConfigError(
                f"--channel-axis {channel_axis}: {data} has {shapes}, more than {MAX_CHANNELS} "
                "channels",
                fix="give the other axis, or leave it out for grey pictures",
            )
        return layout
    if named and layout is None:
        shapes = ", ".join(f"{keys['x', part]} {x.shape}" for part, x in arrays.items())
        raise DataError(
            f"{data}: {shapes}: which axis is that of the channels cannot be told; the rule is "
            f"(N, length, channels) or (N, channels, length), at most {MAX_CHANNELS} channels",
            fix="say which: --channel-axis first or last; or call the array x if it holds pictures",
        )
    return layout if is_measured else None


def converted(data: str, raw: RawSamples | Samples) -> Samples:
    """The signals, or the pictures with pixels in the scale that their values show."""
    if isinstance(raw, Samples):
        return raw
    if raw.signals is not None:
        return raw.signals()
    scale, made, notes = pixel_scale.scale_arrays(data, raw.arrays, None)
    samples = raw.samples(pixel_scale.convert(raw.arrays, scale))
    decisions = samples.decisions if made is None else (*samples.decisions, made)
    return dataclasses.replace(samples, decisions=decisions, notes=(*samples.notes, *notes))


@dataclass(frozen=True)
class _Arrays:
    """What is read of a file, by part (`train`, `val`, `test` or empty)."""

    pictures: dict[str, Array]
    labels: dict[str, Array]
    groups: dict[str, Array]
    class_names: Array | None


_Key = tuple[str, str]
"""What a key names (`x`, `y`, `group`, `class_names`), and of which part."""


def _load(
    data: str, archive: NamedArrays, columns: Mapping[str, str] | None
) -> tuple[_Arrays, dict[_Key, str]]:
    """Read the arrays that are used, and say under which keys they are stored."""
    keys = _keys(data, archive, columns or {})
    read = {what: _array(data, archive, key) for what, key in keys.items()}
    by_kind: dict[str, dict[str, Array]] = {"x": {}, "y": {}, "group": {}}
    for what, part in read:
        if what in by_kind:
            by_kind[what][part] = read[what, part]
    found = _Arrays(by_kind["x"], by_kind["y"], by_kind["group"], read.get(("class_names", "")))
    return found, keys


def _array(data: str, archive: NamedArrays, key: str) -> Array:
    try:
        return archive.read(key)
    except ObjectArrayError as error:
        raise DataError(
            f"{data}: {key} is an array of Python objects, which would have to be unpickled; "
            "only numbers and texts are read",
            fix=f"save plain numbers: np.stack({key}).astype(np.uint8) for pictures, "
            f"np.asarray({key}.tolist()) for labels; pictures of several sizes go into a folder",
        ) from error


def _keys(data: str, archive: NamedArrays, columns: Mapping[str, str]) -> dict[_Key, str]:
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
    parts = [part for part in _PART_NAMES if ("x", part) in found]
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
    order = [(what, part) for part in _PART_NAMES for what in _WORDS]
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
        if _LIKELY.fullmatch(key) and _meaning(key) is None:
            known = [f"{word}_{part}" for word in ("x", "y", "group") for part in _PART_WORDS]
            near = plugins.unknown_name(key, [*known, "class_names"], "key of a data file")
            raise _wrong_keys(data, archive, f"{key!r} is an unknown key", near.fix)


def _stated(data: str, archive: NamedArrays, columns: Mapping[str, str]) -> dict[_Key, str]:
    """What `--columns` says of keys."""
    roles = [f"{what}_{part}".rstrip("_") for what in _WORDS for part in _PART_NAMES]
    found: dict[_Key, str] = {}
    for role, key in columns.items():
        meaning = _meaning(role, only_first_words=True)
        if meaning is None:
            error = plugins.unknown_name(role, [*roles, "class_names"], "kind of array")
            raise ConfigError(f"--columns {role}={key}: {error.what} of {data}", fix=error.fix)
        if key not in archive.files:
            error = plugins.unknown_name(key, archive.files[:50], "key")
            raise ConfigError(f"--columns {role}={key}: {error.what} of {data}", fix=error.fix)
        found[meaning] = key
    return found


def _named(data: str, archive: NamedArrays, stated: Mapping[_Key, str]) -> dict[_Key, str]:
    """What keys with names hold; other words than x, y and group count where these are missing."""
    plain: dict[_Key, list[str]] = {}
    others: dict[_Key, list[str]] = {}
    for key in archive.files:
        meaning = _meaning(key)
        if meaning is not None and meaning not in stated and key not in stated.values():
            is_plain = _meaning(key, only_first_words=True) is not None
            (plain if is_plain else others).setdefault(meaning, []).append(key)
    pairs = [(("x", part) in plain, ("y", part) in plain) for part in _PART_NAMES]
    is_complete = any(x for x, _ in pairs) and all(x == y for x, y in pairs)
    found = plain if is_complete else others | plain
    for keys in found.values():
        if len(keys) > 1:
            what = f"{' and '.join(keys)} mean the same"
            raise _wrong_keys(data, archive, what, "keep one of them")
    return {meaning: keys[0] for meaning, keys in found.items()}


def meaning(key: str) -> str:
    """What the name of an array or a field holds: `x`, `y`, `group`, `class_names`, or nothing."""
    found = _meaning(key)
    return "" if found is None else found[0]


def _meaning(key: str, *, only_first_words: bool = False) -> _Key | None:
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


def _unnamed(archive: NamedArrays) -> dict[_Key, str]:
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


def _key_decision(
    keys: Mapping[_Key, str], columns: Mapping[str, str] | None
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


def _axis_decision(
    data: str, shapes: Mapping[str, tuple[int, ...]], stated: str | None
) -> tuple[Decision, ...]:
    """Where the channels of pictures are; nothing for pictures without channels.

    Raises
    ------
    ConfigError
        If it is stated of pictures without channels.
    """
    with_channels = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    if stated is not None:
        if not with_channels:
            raise ConfigError(
                f"--channel-axis {stated} has no effect: the pictures of {data} have no channels",
                fix="leave it out",
            )
        return ()
    if not with_channels:
        return ()
    name, shape = next(iter(with_channels.items()))
    is_first = _channel_axes(shape) == [1]
    rule = "1 or 3" if shape[1 if is_first else 3] in _USUAL else f"at most {MAX_CHANNELS}"
    return (
        Decision(
            name="channel axis",
            choice="first: (N, C, H, W)" if is_first else "last: (N, H, W, C)",
            evidence=f"{name} has shape {shape}, of which that axis has the length {rule}",
            certainty="inferred",
            option="--channel-axis",
            is_detail=not is_first,
        ),
    )


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


def to_pictures(what: str, x: Array, channel_axis: str | None) -> Array:
    """Bring pictures to (N, H, W, C); an error where the shape is ambiguous."""
    if x.dtype.kind not in "buif":
        raise DataError(f"{what} is {x.dtype}, not numbers", fix="give pixels as numbers")
    if 0 in x.shape[1:]:
        raise DataError(f"{what} has shape {x.shape}: no pixels", fix=f"give {_LAYOUTS}")
    if x.ndim == 3:
        return x[..., None]
    if x.ndim != 4:
        raise DataError(f"{what} has shape {x.shape}", fix=f"reshape it to {_LAYOUTS}")
    return _channels_last(what, x, channel_axis)


def _channels_last(what: str, x: Array, channel_axis: str | None) -> Array:
    if channel_axis is not None:
        axis = 1 if channel_axis == "first" else 3
        if x.shape[axis] > MAX_CHANNELS:
            raise ConfigError(
                f"--channel-axis {channel_axis}: {what} has shape {x.shape}, but that axis is not "
                f"1 to {MAX_CHANNELS} long",
                fix=f"leave --channel-axis out, or give {_LAYOUTS}",
            )
        return np.moveaxis(x, axis, 3)
    axes = _channel_axes(x.shape)
    if len(axes) > 1:
        raise DataError(
            f"{what} has shape {x.shape}: channels could come first or last",
            fix=f"say which: --channel-axis first ({x.shape[2]}x{x.shape[3]} pixels, {x.shape[1]} "
            f"channels) or --channel-axis last ({x.shape[1]}x{x.shape[2]} pixels, {x.shape[3]} "
            "channels)",
        )
    if not axes:
        raise DataError(
            f"{what} has shape {x.shape}: no 1 to {MAX_CHANNELS} channels, first or last",
            fix=f"give {_LAYOUTS}",
        )
    return np.moveaxis(x, axes[0], 3)


def _channel_axes(shape: Sequence[int]) -> list[int]:
    """Axes, 1 or 3, of pictures (N, A, B, C) that could be that of the channels.

    One of length 1 or 3 is; else a short one, of two short ones that which leaves square pictures.
    """
    usual = [axis for axis in (1, 3) if shape[axis] in _USUAL]
    short = usual or [axis for axis in (1, 3) if shape[axis] <= MAX_CHANNELS]
    square = [axis for axis in short if shape[2] == shape[4 - axis]]
    return square if len(short) > 1 and len(square) == 1 and not usual else short


def _labels(what: str, y: Array) -> Array:
    """Convert labels to int64 (N,) or text (N,)."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "buif" and _is_one_hot(y):
        y = y.argmax(1)
    if y.ndim != 1:
        raise DataError(f"{what} has shape {y.shape}", fix="give one label a picture, shape (N,)")
    if y.dtype.kind in "SU":
        return _decoded(what, y)
    fix = "give the number or the name of a class for each picture"
    if y.dtype.kind not in "buif":
        raise DataError(f"{what} is {y.dtype} and not whole numbers or texts", fix=fix)
    if y.dtype.kind == "f" and len(odd := np.flatnonzero(~np.isfinite(y) | (y != np.rint(y)))):
        raise DataError(
            f"{what}[{odd[0]}] = {y[odd[0]]:g}, the rule is whole numbers or texts; {len(odd)} of "
            f"{len(y)} labels break it",
            fix=fix,
        )
    return y.astype(np.int64)


def _decoded(what: str, texts: Array) -> Array:
    """Texts as unicode; an error where bytes are no UTF-8."""
    try:
        return np.char.decode(texts, "utf-8") if texts.dtype.kind == "S" else texts
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} has a text that is not UTF-8: byte {error.start} of {error.object!r:.60}",
            fix="write texts in UTF-8, or as unicode texts of numpy",
        ) from error


def _is_one_hot(y: Array) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def _classes(
    data: str, keys: list[str], ys: list[Array], given: Array | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and the labels of all parts as indices into them."""
    if len({y.dtype.kind for y in ys}) > 1:
        raise DataError(f"{data}: labels are numbers and texts", fix="give one kind of labels")
    y = np.concatenate(ys)
    ids = [f"{key}[{i}]" for key, part in zip(keys, ys, strict=True) for i in range(len(part))]
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
    return tuple(str(name) for name in _decoded(f"{data}: class_names", given).tolist())


def _groups(
    data: str, parts: list[str], counts: list[int], given: dict[str, Array], keys: dict[_Key, str]
) -> NDArray[np.int64] | None:
    """Group number of each sample; in a part without groups each sample is its own group."""
    if not given:
        return None
    texts: list[str] = []
    for part, count in zip(parts, counts, strict=True):
        key = keys.get(("group", part), f"group of {part}")
        column = given.get(part, np.array([f"{key}[{i}]" for i in range(count)]))
        if column.shape != (count,) or column.dtype.kind not in "USiu":
            raise DataError(
                f"{data}: {key} is {column.dtype} {column.shape}",
                fix=f"give {count} whole numbers or texts, one a picture",
            )
        texts += [str(value) for value in column.tolist()]
    return np.unique(texts, return_inverse=True)[1].astype(np.int64)
