"""Pictures or signals, and labels, among named arrays: `x_train y_train [x_test y_test]`, or `x y`.

Floats and signed integers (N, length, channels) or (N, channels, length) are signals.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_arrays import Header, ObjectArrayError
from lepton_automl.data.layouts.array_keys import (
    PART_NAMES,
    Array,
    Key,
    NamedArrays,
    key_decision,
    key_meaning,
    keys_of,
)
from lepton_automl.data.pictures import pixel_scale
from lepton_automl.data.pictures.pixel_scale import RawArray
from lepton_automl.data.samples import RawSamples, Samples, numbered, used_classes
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

_SIGNAL_WORDS = ("signal", "window", "series")
_LAYOUTS = f"(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to {MAX_CHANNELS} channels"
_LARGEST, _EXACT = 2**63 - 1, 2**53
"""Of labels as integers, and as floats, whose neighbours are equal above it."""
_USUAL = (1, 3)
"""Channels of grey and of RGB pictures: an axis of that length is that of the channels."""


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
            PART_NAMES[part],
            x if layout else to_pictures(f"{data}: {keys['x', part]}", x, channel_axis),
        )
        for part, x in arrays.pictures.items()
    ]
    ys = [_labels(f"{data}: {keys['y', part]}", arrays.labels[part]) for part in parts]
    _check_lengths(data, xs, [(keys["y", p], len(y)) for p, y in zip(parts, ys, strict=True)])
    shapes = {keys["x", part]: x.shape for part, x in arrays.pictures.items()}
    decisions = key_decision(keys, columns)
    if layout is None:
        decisions += _axis_decision(data, shapes, channel_axis)
    names = [keys["y", part] for part in parts]
    class_names, labels = _classes(data, names, ys, arrays.class_names)
    class_names, labels, unused = used_classes(class_names, labels)
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
        notes=(*notes, *unused, *_unlabelled_notes(data, archive, keys)),
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


def _unlabelled_notes(data: str, archive: NamedArrays, keys: Mapping[Key, str]) -> tuple[str, ...]:
    """That a test part without labels was left out; nothing where there is none."""
    left = [key for key in archive.files if key_meaning(key) == ("x", "test")]
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
    data: str, arrays: Mapping[str, Array], keys: Mapping[Key, str], channel_axis: str | None
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


def _load(
    data: str, archive: NamedArrays, columns: Mapping[str, str] | None
) -> tuple[_Arrays, dict[Key, str]]:
    """Read the arrays that are used, and say under which keys they are stored."""
    keys = keys_of(data, archive, columns or {})
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
    """Convert labels to int64 (N,) or, of texts, objects (N,)."""
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
    is_whole = y <= _LARGEST if y.dtype.kind == "u" else np.full(len(y), True)
    if y.dtype.kind == "f":
        is_whole = np.isfinite(y) & (y == np.rint(y)) & (np.abs(y) <= _EXACT)
    if len(odd := np.flatnonzero(~is_whole)):
        raise DataError(
            f"{what}[{odd[0]}] = {y[odd[0]]:g}, the rule is whole numbers or texts; {len(odd)} of "
            f"{len(y)} labels break it",
            fix=fix,
        )
    return y.astype(np.int64)


def _decoded(what: str, texts: Array) -> Array:
    """Texts (N,) as objects, each in its own memory; an error where bytes are no UTF-8."""
    found = texts.astype(object)
    try:
        if texts.dtype.kind == "S":
            found[:] = [text.decode("utf-8") for text in found.tolist()]
        return found
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
        if y.dtype.kind == "O":
            return numbered(y.tolist())
        known, places = np.unique(y, return_inverse=True)
        if len(y) and known[0] < 0:
            raise _no_class(data, ids[int(y.argmin())], known[0], "whole numbers from 0")
        return tuple(str(name) for name in known), places.astype(np.int64)
    class_names = _class_names(data, given)
    if y.dtype.kind == "O":
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
    data: str, parts: list[str], counts: list[int], given: dict[str, Array], keys: dict[Key, str]
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
    return numbered(texts)[1]
