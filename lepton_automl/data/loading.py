"""Find the source of data and read its samples, with those of `--test` as their test part."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays, plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_files import whole_number
from lepton_automl.data.audio_files import SUFFIXES as AUDIO_SUFFIXES
from lepton_automl.data.pictures.picture_files import OTHER_SUFFIXES, Pictures
from lepton_automl.data.pictures.picture_files import SUFFIXES as PICTURE_SUFFIXES
from lepton_automl.data.pictures.pixel_scale import (
    EIGHT_BIT,
    PixelScale,
    RawArray,
    convert,
    scale_arrays,
)
from lepton_automl.data.samples import RawSamples, Samples, subset
from lepton_automl.data.sources import Source
from lepton_automl.errors import ConfigError, DataError

ReadOptions = Mapping[str, object]
"""`parts`, `columns`, `root`, `channel_axis`, `window`, `stride`, `rate`, `mels`, `dataset`: see
`Source.uses`."""


def read_samples(
    data: str,
    test: Path | None,
    options: ReadOptions | None = None,
    stated: PixelScale | None = None,
    known: PixelScale | None = None,
) -> Samples:
    """Read the samples of `data`, with those of `test` as their test part.

    Parameters
    ----------
    data : str
        Accepted by one of the sources.
    test : Path or None
        Other data with the test part.
    options : mapping, optional
        How the data are read: keyword arguments of the sources that use them. All but `parts` and
        `dataset` apply to `test` too.
    stated, known : PixelScale, optional
        As `given` and `known` in `pixel_scale.scale_arrays`.

    Raises
    ------
    DataError
        If no source accepts the data, they cannot be used, `test` has another class, or the parts
        have different pixel scales.
    ConfigError
        If there are two test parts, an option has no effect, or the stated pixel scale does not fit
        the data.
    """
    options = options or {}
    for_test = {name: each for name, each in options.items() if name not in _OF_DATA_ONLY}
    sources = [_source(data), *([] if test is None else [_source(str(test))])]
    _check_effect(data, options, [source.uses for source in sources])
    first = _read(data, sources[0], options)
    if isinstance(first, Samples) and first.sound is not None and first.audio is not None:
        found = {"rate": first.audio.rate, "stride": first.audio.stride}
        for_test = for_test | found | {"window": first.sound.shape[1]}
    if test is None:
        return _scaled(data, first, (), stated, known)[0]
    second = _read(str(test), sources[1], for_test)
    tested = _tested(second, test)
    samples, scale = _scaled(data, first, tested, stated, known)
    if scale is None:
        more, _ = _scaled(str(test), second, (), None, stated or known)
    else:
        more = _converted(second, scale)
    return _with_test(samples, more, data, test)


def _scaled(
    data: str,
    read: RawSamples | Samples,
    others: Sequence[RawArray],
    stated: PixelScale | None,
    known: PixelScale | None,
) -> tuple[Samples, PixelScale | None]:
    """The samples, and the scale of their pixels and of `others`; None for files and signals."""
    if isinstance(read, Samples):
        return read, None
    if read.signals is not None and stated is None:
        return read.signals(), None
    scale, made, notes = scale_arrays(data, [*read.arrays, *others], stated, known)
    samples = _converted(read, scale)
    decisions = samples.decisions if made is None else (*samples.decisions, made)
    samples = dataclasses.replace(samples, notes=(*samples.notes, *notes), decisions=decisions)
    return samples, scale


def _converted(read: RawSamples | Samples, scale: PixelScale) -> Samples:
    if isinstance(read, Samples):
        return read
    samples = read.samples(convert(read.arrays, scale))
    return dataclasses.replace(
        samples,
        pixel_scale=None if scale == EIGHT_BIT else scale,
        uint16_pixels=_uint16_pixels(read.arrays, scale)
        if isinstance(samples.pictures, np.ndarray)
        else None,
    )


def _uint16_pixels(arrays: Sequence[RawArray], scale: PixelScale) -> NDArray[np.uint16] | None:
    """The stored pixels of all parts, where they have more than 8 bits in uint16; else None."""
    values = [array.values for array in arrays]
    if not scale.is_above_8_bits or any(each.dtype != np.uint16 for each in values):
        return None
    return _joined_uint16(values)


def _joined_uint16(values: Sequence[NDArray[np.uint16]]) -> NDArray[np.uint16] | None:
    """Pixels of 16 bits one after the other; None where their shapes differ."""
    if len({each.shape[1:] for each in values}) > 1:
        return None
    made: NDArray[np.uint16] = large_arrays.empty(
        (sum(map(len, values)), *values[0].shape[1:]), np.uint16
    )
    place = 0
    for each in values:
        made[place : place + len(each)] = each
        place += len(each)
    return made


def _tested(read: RawSamples | Samples, test: Path) -> list[RawArray]:
    """The arrays of `--test` that become the test part."""
    arrays = () if isinstance(read, Samples) else read.arrays
    is_test = any(array.part == "test" for array in arrays)
    used = [array for array in arrays if array.part == ("test" if is_test else "")]
    return [RawArray(f"{array.name} of --test {test}", "test", array.values) for array in used]


_FILE_SUFFIX = re.compile(
    r"(?<=.)\.(npz|npy|csv|tsv|jsonl|ndjson|zip|tar|tgz|tar\.gz|parquet|gz)$", re.IGNORECASE
)
"""Suffix of a file that holds data."""


def dataset_name(data: str) -> str:
    """A short name for `data`, valid as a folder name: `flowers5` for `x/flowers5/train`."""
    path = Path(data).absolute()
    named = path.parent if path.name in {"train", "training"} and path.parent.name else path
    stem = _FILE_SUFFIX.sub("", named.name)
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "data"


def find_source(data: str) -> tuple[str, type[Source]] | None:
    """The source that reads `data`, and its name; None where no source accepts it."""
    # A built-in name precedes a folder of that name, which can be given as `./digits`.
    for name in sorted(plugins.names("sources"), key=lambda name: (name != data, name)):
        source = plugins.load("sources", name, Source)  # type: ignore[type-abstract]
        if source().accepts(data):
            return name, source
    return None


def _source(data: str) -> type[Source]:
    if (found := find_source(data)) is not None:
        return found[1]
    names = plugins.names("sources")
    what = "is not a supported kind of data" if Path(data).exists() else "does not exist"
    if (
        data.lower().endswith((".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"))
        and Path(data).is_file()
    ):
        raise DataError(
            f"{data} {what}: it is compressed",
            fix="unpack it, such as `gunzip` a .gz file, and give what was in it",
        )
    if Path(data).is_file() and (kind := _single_file(Path(data).suffix.lower())):
        raise DataError(f"{data} {what}: it is {kind[0]}", fix=kind[1])
    near = difflib.get_close_matches(data, names, n=1)
    there = "" if Path(data).exists() else "check the path, or "
    raise DataError(
        f"{data} {what}",
        fix=(f"did you mean {near[0]!r}? " if near else there)
        + "give a folder with one sub-folder of pictures per class, a table (.csv) of paths and "
        "labels, an .npz file, MODULE:ATTRIBUTE of a data set in Python, or digits (known sources: "
        f"{', '.join(names)})",
    )


def _single_file(suffix: str) -> tuple[str, str] | None:
    """What a file of a suffix is that holds no data set, and the way out; None if unknown."""
    if suffix in PICTURE_SUFFIXES | OTHER_SUFFIXES | AUDIO_SUFFIXES:
        one = "recording" if suffix in AUDIO_SUFFIXES else "picture"
        return (
            f"a single {one}",
            f"give a folder with one sub-folder of {one}s per class; `lepton predict RUN "
            f"{one.upper()}` classifies single ones",
        )
    if suffix == ".json":
        return (
            "one JSON document",
            "write a table with one JSON object a line (.jsonl), such as "
            '{"path": "a/1.png", "label": "a"}, or a .csv table of paths and labels',
        )
    return None


_OF_DATA_ONLY = frozenset({"parts", "dataset"})
"""Options that do not say how `--test` is read."""


_OPTIONS = {
    "parts": ("--parts", "neither a folder of classes nor a table"),
    "columns": ("--columns", "neither a table nor a file of arrays"),
    "root": ("--root", "no table of paths"),
    "channel_axis": ("--channel-axis", "no file of arrays"),
    "window": ("--window", "neither a folder nor a table of recordings"),
    "stride": ("--stride", "neither a folder nor a table of recordings"),
    "rate": ("--rate", "neither a folder nor a table of sound"),
    "mels": ("--mels", "neither a folder nor a table of sound"),
    "band_mean": ("--band-mean", "neither a folder nor a table of sound"),
}
"""How data are read -> option, and what the data are where it has no effect."""


def _check_effect(data: str, options: ReadOptions, uses: Sequence[frozenset[str]]) -> None:
    for name in options.keys() - {"skip_corrupt"}:  # Picture files are checked for all sources.
        others = uses[:1] if name in _OF_DATA_ONLY else uses
        if not any(name in each for each in others):
            option, what = _OPTIONS[name]
            raise ConfigError(
                f"{option} has no effect: {data} is {what}", fix=f"leave {option} out"
            )


def _read(data: str, source: type[Source], options: ReadOptions) -> RawSamples | Samples:
    used = {name: value for name, value in options.items() if name in source.uses}
    samples = source(**used).read_raw(data)
    if isinstance(samples, Samples) and not len(samples):
        raise DataError(f"{data} holds no pictures", fix="give labelled pictures")
    return samples


def _with_test(samples: Samples, more: Samples, data: str, test: Path) -> Samples:
    if samples.parts is not None and (samples.parts == "test").any():
        raise ConfigError(
            f"--test {test} is given, but {data} has a test part of "
            f"{(samples.parts == 'test').sum()} {samples.noun}",
            fix="omit --test, or give data without a test part",
        )
    if more.parts is not None:
        own = more.parts == "test" if (more.parts == "test").any() else more.parts == ""
        more = subset(more, np.flatnonzero(own))
    if not len(more):
        raise DataError(
            f"--test {test} has no test part",
            fix=f"give a folder or file with test {samples.noun}",
        )
    if (samples.audio is None) != (more.audio is None) or _lengths(samples) != _lengths(more):
        raise DataError(
            f"--test {test} holds other samples than {data}: "
            f"{_lengths(more) or 'pictures'}, not {_lengths(samples) or 'pictures'}",
            fix="give signals of the same length and channels, pictures or sound in both",
        )
    if samples.channel_names and more.channel_names not in ((), samples.channel_names):
        raise DataError(
            f"--test {test} has the channels {', '.join(more.channel_names)}, {data} has "
            f"{', '.join(samples.channel_names)}",
            fix="give the same columns in the same order",
        )
    place = [_class_index(name, samples.class_names, test) for name in more.class_names]
    first = np.full(len(samples), "", "<U10") if samples.parts is None else samples.parts
    return Samples(
        pictures=_concatenate(samples.only_pictures, more.only_pictures)
        if samples.are_pictures
        else large_arrays.join([np.asarray(samples.pictures), np.asarray(more.pictures)]),
        labels=np.concatenate([samples.labels, np.array(place, np.int64)[more.labels]]),
        class_names=samples.class_names,
        ids=samples.ids + tuple(f"{test}: {name}" for name in more.ids),
        parts=np.concatenate([first, np.full(len(more), "test", "<U10")]),
        groups=_concatenate_numbers(samples, more, samples.groups, more.groups),
        recordings=_concatenate_numbers(samples, more, samples.recordings, more.recordings),
        spans=_concatenate_spans(samples.spans, more.spans),
        attributes=_concatenate_attributes(samples, more),
        channel_names=samples.channel_names,
        window_stride=samples.window_stride,
        notes=samples.notes + more.notes,
        decisions=(*samples.decisions, *(_of_test(each) for each in more.decisions)),
        pixel_scale=samples.pixel_scale,
        audio=samples.audio,
        unreadable=samples.unreadable + more.unreadable,
        value_type=samples.value_type if samples.value_type == more.value_type else "float32",
        uint16_pixels=None
        if samples.uint16_pixels is None or more.uint16_pixels is None
        else _joined_uint16([samples.uint16_pixels, more.uint16_pixels]),
    )


def _lengths(samples: Samples) -> tuple[int, ...] | None:
    """Length and channels of signals, length of windows of sound; None for pictures."""
    return None if samples.are_pictures else np.asarray(samples.pictures).shape[1:]


def _of_test(decision: Decision) -> Decision:
    return dataclasses.replace(decision, name=f"{decision.name} of --test")


def _class_index(name: str, class_names: tuple[str, ...], test: Path) -> int:
    if name in class_names:
        return class_names.index(name)
    number = whole_number(name) if name.isdecimal() else None
    are_numbers = any(known.isdecimal() for known in class_names)
    if number is not None and number < len(class_names) and not are_numbers:
        return number
    near = plugins.unknown_name(name, list(class_names), "class")
    raise DataError(f"--test {test} has a class {name!r} that the data do not have", fix=near.fix)


def _concatenate(first: Pictures, second: Pictures) -> Pictures:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):  # noqa: SIM102
        if first.shape[1:] == second.shape[1:]:
            return large_arrays.join([first, second])
    return (*first, *second)


def _concatenate_spans(
    first: NDArray[np.int64] | None, second: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    if first is None or second is None:
        return None
    moved = second + np.array([int(first[:, 0].max()) + 1, 0, 0])
    return np.concatenate([first, moved])


def _concatenate_numbers(
    samples: Samples,
    more: Samples,
    first: NDArray[np.int64] | None,
    second: NDArray[np.int64] | None,
) -> NDArray[np.int64] | None:
    """Numbers of the groups, or of the recordings, of two data sets; alone where not given."""
    if first is None and second is None:
        return None
    # Equal group names in two files do not mean the same group, so the second ones are renumbered.
    columns, start = [], 0
    for part, numbers in ((samples, first), (more, second)):
        own = np.arange(len(part)) if numbers is None else numbers - numbers.min()
        columns.append(own + start)
        start += int(own.max()) + 1
    return np.concatenate(columns)


def _concatenate_attributes(samples: Samples, more: Samples) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys((*samples.attributes, *more.attributes))
    return {
        name: tuple(
            text
            for part in (samples, more)
            for text in part.attributes.get(name, ("",) * len(part))
        )
        for name in names
    }
