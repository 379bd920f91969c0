"""Load labelled pictures: find the source, check every picture, assign the parts."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import NONE, Channels, group_pattern
from lepton_automl.core import files, large_arrays, plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.data import checking, decode_pool
from lepton_automl.data.audio_files import Audio
from lepton_automl.data.checking import CheckedPicture, CheckResult
from lepton_automl.data.decode_pool import Reading
from lepton_automl.data.known_pictures import KnownPictures
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.decode import PictureInfo
from lepton_automl.data.pictures.formats import FormatTable
from lepton_automl.data.pictures.levels import LevelTable, scale_files
from lepton_automl.data.pictures.pixel_scale import (
    EIGHT_BIT,
    OPTION,
    SIXTEEN_BIT,
    PixelScale,
    RawArray,
    convert,
    scale_arrays,
)
from lepton_automl.data.samples import PARTS, Picture, Pictures, RawSamples, Samples
from lepton_automl.data.signals import Signals
from lepton_automl.data.sources import Source
from lepton_automl.data.splits import near_duplicates, window_times
from lepton_automl.data.splits.name_groups import (
    find_name_groups,
    groups_by_attribute,
    groups_by_pattern,
)
from lepton_automl.data.splits.near_duplicates import NearDuplicates
from lepton_automl.data.splits.split import first_few, split, split_by_time
from lepton_automl.data.splits.times import Times, read_times
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.text import printable

_MANY = 20_000
"""Pictures from which the search for near duplicates takes seconds and is announced."""

ReadOptions = Mapping[str, object]
"""`parts`, `columns`, `root`, `channel_axis`, `window`, `stride`, `rate`, `mels`, `dataset`: see
`Source.uses`."""


@dataclass(frozen=True)
class UnreadableFile:
    """A picture file that cannot be read."""

    id: str
    """Name in messages, as `Samples.ids`."""
    class_name: str
    part: str
    """`train`, `validation` or `test`; empty where the data give no part."""
    error: str
    """Path and reason."""


@dataclass(frozen=True, eq=False)
class CheckedSamples:
    """Samples whose pictures have all been read once and found valid."""

    samples: Samples
    digests: tuple[bytes, ...]
    """Hash of each picture: of its pixels, where they are stored without loss; else of the file."""
    channels: int
    """3 if a picture outside the test part has colour, else 1; or those of arrays that are no
    colours."""
    size: tuple[int, int] | None
    """Height and width (pixels) that all pictures share, or None."""
    levels: LevelTable | None
    """Of each picture as it is stored; None for signals."""
    near_duplicates: NDArray[np.int64] | None = None
    """(N,): group of near duplicates of each sample, of given parts too; None: not looked for."""
    are_groups_found: bool = False
    """Whether the groups were found in pictures or names, and not given."""
    formats: FormatTable | None = None
    """Size and kind of each picture as it is stored; None for signals."""
    unreadable: tuple[UnreadableFile, ...] = ()
    """Files that were left out."""
    thumbs: NDArray[np.uint8] | None = None
    """(N, `checking.THUMBNAIL`, `checking.THUMBNAIL`), by the scale of 16 bits; None for arrays."""
    known: KnownPictures | None = None
    """Remembers what was found in the files, and groups; None where there are few pictures."""


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
        deep=_deep_pixels(read.arrays, scale) if isinstance(samples.pictures, np.ndarray) else None,
    )


def _deep_pixels(arrays: Sequence[RawArray], scale: PixelScale) -> NDArray[np.uint16] | None:
    """The stored pixels of all parts, where they have more than 8 bits in uint16; else None."""
    values = [array.values for array in arrays]
    if not scale.is_deep or any(each.dtype != np.uint16 for each in values):
        return None
    return _joined_deep(values)


def _joined_deep(values: Sequence[NDArray[np.uint16]]) -> NDArray[np.uint16] | None:
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


def choose_file_scale(
    checked: CheckedSamples, stated: PixelScale | None, known: PixelScale | None
) -> CheckedSamples:
    """Choose the pixel scale of files with more than 8 bits, and check it on every part.

    Returns
    -------
    CheckedSamples
        With the scale, the decision and notes; as given where no file has more than 8 bits.

    Raises
    ------
    DataError
        If a given part has another scale than training.
    ConfigError
        If the stated scale does not fit the files, or there is nothing to which it applies.
    """
    samples, levels = checked.samples, checked.levels
    if levels is None:
        if stated is not None:
            raise _no_picture_option(f"{OPTION} {stated.name}", samples)
        return checked
    if not levels.is_deep.any():
        if samples.pixel_scale is None and stated is not None and stated != EIGHT_BIT:
            raise ConfigError(
                f"{OPTION} {stated.name} has no effect: all pictures have 8 bits a channel",
                fix=f"leave {OPTION} out",
            )
        return checked
    parts = np.full(len(samples), "") if samples.parts is None else samples.parts
    is_training = np.isin(parts, ("", "train"))
    by_part = {
        name: levels.select((is_training if name == "train" else parts == name) & levels.is_deep)
        for name in PARTS
    }
    scale, made, notes = scale_files(
        {name: rows for name, rows in by_part.items() if len(rows)},
        training_count=int(is_training.sum()),
        stated=stated,
        known=known,
    )
    decisions = samples.decisions if made is None else (*samples.decisions, made)
    changed = dataclasses.replace(
        samples, pixel_scale=scale, decisions=decisions, notes=(*samples.notes, *notes)
    )
    return dataclasses.replace(checked, samples=changed)


def check_pictures(
    samples: Samples,
    skip_corrupt: bool,
    quarantine: Path | None,
    emit: Emit,
    reading: Reading | None = None,
    place: str = "",
) -> CheckedSamples:
    """Read every picture once: check that it is valid, take its size and its hash.

    Parameters
    ----------
    samples : Samples
        Pictures or signals.
    skip_corrupt : bool
        Leave files out that cannot be read.
    quarantine : Path or None
        Text file in which they are listed.
    emit : callable
        Receives progress.
    reading : Reading, optional
        In how many processes files are read.
    place : str
        Names the data; of many files what is found is remembered under it (`known_pictures`).

    Raises
    ------
    DataError
        If picture files cannot be read and `skip_corrupt` is false.
    MachineError
        If the list of ignored files cannot be written to `quarantine`.
    """
    if (signals := samples.signals) is not None:
        digests = tuple(hashlib.sha256(row).digest() for row in signals)
        return CheckedSamples(samples, digests, signals.shape[2], (1, signals.shape[1]), None)
    if (sound := samples.sound) is not None:
        digests = tuple(hashlib.sha256(row).digest() for row in sound)
        return CheckedSamples(samples, digests, 1, None, None)
    pictures = samples.only_pictures
    if isinstance(pictures, np.ndarray):
        stored = pictures if samples.deep is None else samples.deep
        digests = tuple(hashlib.sha256(row).digest() for row in np.ascontiguousarray(stored))
        levels = LevelTable.of_pixels(pictures)
        # Nothing is remembered of arrays but the groups that follow from all of them.
        is_kept = place and len(samples) >= decode_pool.MANY
        is_forced = reading is not None and reading.is_forced
        return CheckedSamples(
            samples,
            digests,
            pictures.shape[3],
            pictures.shape[1:3],
            levels,
            formats=FormatTable.of_pixels(pictures),
            known=KnownPictures(place, (), is_forced=is_forced) if is_kept else None,
        )
    total = len(samples)

    results, known = _checked(pictures, reading or Reading(emit=emit), place)
    valid = [result for result in results if isinstance(result, CheckedPicture)]
    unreadable = _unreadable_files(samples, results)
    if len(valid) < total:
        invalid = [result for result in results if isinstance(result, DataError)]
        _report_unreadable(invalid, total, skip_corrupt, quarantine, emit)
        index = [n for n, result in enumerate(results) if not isinstance(result, DataError)]
        samples = _subset(samples, np.array(index, np.int64))
    infos = [result.info for result in valid]
    sizes = {info.size for info in infos}
    size = sizes.pop() if len(sizes) == 1 else None
    digests = tuple(result.digest for result in valid)
    if size is None:  # Equal bytes of pixels in another shape are another picture.
        digests = tuple(
            digest if info.pixel_digest is None else _with_size(digest, info.size)
            for info, digest in zip(infos, digests, strict=True)
        )
    levels = LevelTable.of([info.levels for info in infos])
    decisions = (*samples.decisions, *_picture_decisions(samples, infos))
    samples = dataclasses.replace(samples, decisions=decisions)
    return CheckedSamples(
        samples,
        digests,
        _channels(samples, infos),
        size,
        levels,
        formats=FormatTable.of(infos),
        unreadable=unreadable,
        thumbs=large_arrays.join([result.thumb[None] for result in valid]),
        known=known,
    )


def _checked(
    pictures: Sequence[Picture], reading: Reading, place: str
) -> tuple[list[CheckResult], KnownPictures | None]:
    """What is found in each picture; files that are known and have not changed are not read."""
    paths = [picture for picture in pictures if not isinstance(picture, np.ndarray)]
    if len(paths) < len(pictures):
        return decode.map_in_threads(checking.check_one, pictures), None
    if len(paths) < decode_pool.MANY or not place:
        return decode_pool.check(paths, reading), None
    known = KnownPictures(place, paths, is_forced=reading.is_forced)
    found: dict[int, CheckResult] = {**known.find()}
    left = [n for n in range(len(paths)) if n not in found]
    if found:
        text = f"{len(found):,} of {len(paths):,} pictures are known and have not changed"
        reading.emit(Event("data", f"{text}; --rehash reads them again", is_detail=True))

    def on_checked(places: Sequence[int], results: Sequence[CheckResult]) -> None:
        known.keep([left[n] for n in places], results)

    results = decode_pool.check([paths[n] for n in left], reading, on_checked, before=len(found))
    found.update(zip(left, results, strict=True))
    ordered = [found[n] for n in range(len(paths))]
    known.finish(ordered)
    if known.failure:
        reading.emit(Event("data", f"what was found is not remembered: {known.failure}"))
    return ordered, known


def _unreadable_files(
    samples: Samples, results: Sequence[CheckResult]
) -> tuple[UnreadableFile, ...]:
    return tuple(
        UnreadableFile(
            samples.ids[n],
            samples.class_names[samples.labels[n]],
            "" if samples.parts is None else str(samples.parts[n]),
            result.what,
        )
        for n, result in enumerate(results)
        if isinstance(result, DataError)
    )


def _picture_decisions(samples: Samples, infos: Sequence[PictureInfo]) -> Iterator[Decision]:
    """What is used of pictures that hold more than one grey or RGB picture."""
    kinds = (
        ("transparency", "transparent pixels are blended with white", "has_transparency"),
        ("animations", "the first frame is used", "is_animated"),
    )
    for name, choice, field in kinds:
        places = [n for n, info in enumerate(infos) if getattr(info, field)]
        if places:
            evidence = f"{len(places)} of {len(infos)} pictures, such as {samples.ids[places[0]]}"
            option = "convert the pictures before"
            yield Decision(name, choice, evidence, "assumed", option, is_detail=True)


def with_channels(checked: CheckedSamples, wanted: Channels) -> CheckedSamples:
    """Samples of which nets see as many channels as `wanted` says; `auto`: those of the pictures.

    Grey pictures have three equal channels then, and colour becomes grey as in `decode.decode`;
    with `4` opacity is a channel.

    Raises
    ------
    ConfigError
        If it is not `auto` for signals, or for pictures that are neither grey nor RGB; or `4` where
        no picture has transparency.
    """
    if not checked.samples.are_pictures and wanted != "auto":
        raise _no_picture_option(f"--channels {wanted}", checked.samples)
    if checked.channels not in (1, 3) and wanted not in ("auto", str(checked.channels)):
        raise ConfigError(
            f"--channels {wanted}: the pictures have {checked.channels} channels, which are no "
            "colours that could be converted",
            fix="leave it out, or give arrays with the channels that nets shall see",
        )
    if wanted in ("auto", str(checked.channels)):
        return checked
    made = dataclasses.replace(checked, channels=int(wanted))
    return made if wanted != "4" else _with_opacity(made)


def _with_opacity(checked: CheckedSamples) -> CheckedSamples:
    """Samples whose transparent pictures are known by all four channels, not by what they show."""
    formats, pictures = checked.formats, checked.samples.only_pictures
    if formats is None or not formats.has_alpha.any():
        raise ConfigError(
            "--channels 4: no picture has transparency", fix="give --channels 3, or leave it out"
        )
    places = np.flatnonzero(formats.has_alpha).tolist()
    found = decode.map_in_threads(lambda n: decode.decode(pictures[n], 4), places)
    digests = list(checked.digests)
    for place, pixels in zip(places, found, strict=True):
        digests[place] = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    decisions = tuple(each for each in checked.samples.decisions if each.name != "transparency")
    samples = dataclasses.replace(checked.samples, decisions=decisions)
    return dataclasses.replace(checked, digests=tuple(digests), samples=samples)


def with_groups(
    checked: CheckedSamples, group: str | None, emit: Emit, *, by_names: bool = True
) -> CheckedSamples:
    """Samples with groups: stated ones, those of the data, or those that pictures and names show.

    Parameters
    ----------
    checked : CheckedSamples
        Samples, maybe with groups of their own.
    group : str or None
        As in `stated_groups`. None: the groups of the data, else near duplicates and groups that
        file names count.
    emit : callable
        Receives an event where groups are found.
    by_names : bool
        Whether groups are looked for in file names.

    Raises
    ------
    ConfigError
        As `stated_groups`.
    """
    if not checked.samples.are_pictures:
        return _with_stated_groups(checked, group, is_timed=not by_names)
    return _with_found_groups(checked, group, emit, by_names=by_names)


def _with_found_groups(
    checked: CheckedSamples, group: str | None, emit: Emit, *, by_names: bool
) -> CheckedSamples:
    samples, copies = checked.samples, _copies(checked.digests)
    different = np.flatnonzero(copies == np.arange(len(samples)))
    scale = SIXTEEN_BIT if samples.pixel_scale is None else samples.pixel_scale
    thumbs = _thumbnails(checked, different, scale)
    near, not_searched = _search(checked, thumbs, samples.labels[different], emit)
    place = np.searchsorted(different, copies)
    near_groups = different[near.groups][place]
    # Groups may hold unrelated pictures, which costs nothing; what is named should not.
    named_groups = different[near_duplicates.confirmed(thumbs, near.groups)][place]
    checked = dataclasses.replace(checked, near_duplicates=named_groups)
    if (stated := stated_groups(samples, group)) is not None:
        return _grouped(checked, stated)
    if group == NONE:
        return _grouped(checked, None)
    if samples.groups is not None or not _wanted(samples):
        return checked
    by_name, named = None, None
    if by_names:
        vectors = near_duplicates.vectors(thumbs)[place]
        by_name, named = find_name_groups(samples.ids, samples.labels, samples.class_names, vectors)
    has_near = bool((near.sizes > 1).any())
    decisions = [each for each in (named, not_searched) if each is not None]
    if has_near:
        names = [samples.ids[int(n)] for n in different]
        decisions.append(_near_duplicate_decision(near, names))
    for decision in decisions:
        emit(Event("data", f"{decision.name}: {decision.choice} ({decision.option} overrules it)"))
    samples = dataclasses.replace(samples, decisions=(*samples.decisions, *decisions))
    checked = dataclasses.replace(checked, samples=samples)
    if by_name is None and not has_near:
        return checked  # Copies alone stay together too, but are no groups in the statistics.
    groups = _union(copies, near_groups)
    groups = groups if by_name is None else _union(groups, by_name)
    checked = _with_few_groups_decision(checked, groups)
    checked = _grouped(checked, _with_enough_groups(groups, copies, samples.labels))
    return dataclasses.replace(checked, are_groups_found=True)


def _thumbnails(
    checked: CheckedSamples, places: NDArray[np.int64], scale: PixelScale
) -> NDArray[np.uint8]:
    """Grey thumbnails of pictures; files with more than 8 bits are read again for their scale."""
    pictures = checked.samples.only_pictures
    if checked.thumbs is None or checked.levels is None:
        return near_duplicates.thumbnails(select(pictures, places), scale)
    thumbs = large_arrays.take(checked.thumbs, places)
    deep = np.flatnonzero(checked.levels.is_deep[places])
    if scale != SIXTEEN_BIT and len(deep):
        thumbs[deep] = near_duplicates.thumbnails(select(pictures, places[deep]), scale)
    return thumbs


def stated_groups(samples: Samples, group: str | None) -> NDArray[np.int64] | None:
    """Group of each sample by `--group`; None where that states no groups.

    Parameters
    ----------
    samples : Samples
        Their attributes and names.
    group : str or None
        Name of an attribute, whose values are the groups, samples without one are alone; else a
        regular expression: its first capture group, or its whole match, in a sample's path names
        the sample's group, samples without a match are alone.

    Raises
    ------
    ConfigError
        If it is neither an attribute nor a regular expression, or all samples or none are of one
        group.
    """
    if group is not None and group in samples.attributes:
        return groups_by_attribute(group, samples.attributes[group])
    pattern = group_pattern(group)
    if pattern is None:
        return None
    return groups_by_pattern(pattern, samples.ids, tuple(samples.attributes))


def _with_stated_groups(
    checked: CheckedSamples, group: str | None, *, is_timed: bool
) -> CheckedSamples:
    """Signals with the groups that are stated, or those of the data."""
    if (stated := stated_groups(checked.samples, group)) is not None:
        return _grouped(checked, stated)
    samples = checked.samples
    if group == NONE and samples.spans is not None and not is_timed:
        return _with_recordings(checked, samples.spans[:, 0])
    if group == NONE:
        return _grouped(checked, None if samples.audio is None else samples.groups)
    if samples.groups is not None or not _wanted(samples):
        return checked
    what = "windows" if samples.audio is None else "recordings"
    decision = Decision(
        name="groups",
        choice=f"{what} are independent of each other, but for equal ones",
        evidence=f"the data name no groups; {what} of one person or device that are in several "
        "parts make validation and test too good",
        certainty="assumed",
        option="--group REGEX"
        if samples.audio is not None
        else "--group, or an array group_train beside x_train",
    )
    decisions = (*samples.decisions, decision)
    return dataclasses.replace(checked, samples=dataclasses.replace(samples, decisions=decisions))


def _with_recordings(checked: CheckedSamples, recordings: NDArray[np.int64]) -> CheckedSamples:
    """Windows that no group holds together but their recording, where there are enough of them."""
    count, samples = len(np.unique(recordings)), checked.samples
    if count == len(recordings):
        return _grouped(checked, None)
    is_whole = count > len(_wanted(samples))
    decision = Decision(
        name="groups",
        choice="windows of one recording stay in one part, groups need not"
        if is_whole
        else "windows are drawn one by one: neighbours share values, so that validation and test "
        "are too good",
        evidence=f"--group none; {count} recordings of {len(recordings)} windows",
        certainty="inferred" if is_whole else "assumed",
        option="--time COLUMN (cuts through recordings)",
    )
    samples = dataclasses.replace(samples, decisions=(*samples.decisions, decision))
    return _grouped(dataclasses.replace(checked, samples=samples), recordings if is_whole else None)


def _no_picture_option(option: str, samples: Samples) -> ConfigError:
    kind = "signals" if samples.audio is None else "audio"
    return ConfigError(
        f"{option} has no effect: the data are {kind}, not pictures", fix="leave it out"
    )


def _with_few_groups_decision(checked: CheckedSamples, groups: NDArray[np.int64]) -> CheckedSamples:
    """Samples with the decision on classes of which `_with_enough_groups` leaves groups out."""
    samples = checked.samples
    few = [
        f"{name!r} ({count})"
        for label, name in enumerate(samples.class_names)
        if (count := len(np.unique(groups[samples.labels == label]))) < len(PARTS)
    ]
    if not few:
        return checked
    decision = Decision(
        name="groups of small classes",
        choice=f"in {len(few)} of {len(samples.class_names)} classes only equal pictures stay in "
        "one part, so validation and test may be too good there",
        evidence=f"fewer groups than the {len(PARTS)} parts: {first_few(few, 3)}",
        certainty="assumed",
        option="--group REGEX",
    )
    samples = dataclasses.replace(samples, decisions=(*samples.decisions, decision))
    return dataclasses.replace(checked, samples=samples)


def _with_enough_groups(
    groups: NDArray[np.int64], copies: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Groups that were found, without those of a class that they would leave too few for the parts.

    Only equal pictures stay together there.
    """
    kept = groups.copy()
    for label in np.unique(labels):
        own = labels == label
        if len(np.unique(groups[own])) < len(PARTS):
            kept[own] = copies[own] + groups.max() + 1
    return kept


def _grouped(checked: CheckedSamples, groups: NDArray[np.int64] | None) -> CheckedSamples:
    return dataclasses.replace(checked, samples=dataclasses.replace(checked.samples, groups=groups))


def _search(
    checked: CheckedSamples, thumbs: NDArray[np.uint8], labels: NDArray[np.int64], emit: Emit
) -> tuple[NearDuplicates, Decision | None]:
    """Near duplicates of different pictures; where they are too many, that they are not searched.

    Numbers of pictures alone decide, never time: a resumed run and a verification have to draw the
    same parts.
    """
    none = NearDuplicates(np.arange(len(labels)), 0.0)
    if checked.size is not None and min(checked.size) < near_duplicates.MIN_SIDE:
        return none, None
    if near_duplicates.are_too_many(labels):
        return none, Decision(
            name="near duplicates",
            choice=f"not searched among {len(labels):,} pictures: only equal ones stay together",
            evidence=f"the largest class has {np.bincount(labels).max():,}, too many to compare "
            f"all pairs (at most {near_duplicates.MAX_PAIRS:,} in all classes, counted both ways)",
            certainty="assumed",
            option="--group REGEX",
        )

    def make() -> tuple[NDArray[np.int64], float]:
        if len(labels) >= _MANY:
            emit(Event("data", f"comparing {len(labels):,} pictures for near duplicates"))
        made = near_duplicates.find_near_duplicates(thumbs, labels)
        return made.groups, made.bound

    if checked.known is None:
        return NearDuplicates(*make()), None
    content = (thumbs.data.cast("B"), labels.astype("<i8").tobytes())
    return NearDuplicates(*checked.known.groups(content, make)), None


def _near_duplicate_decision(near: NearDuplicates, ids: Sequence[str]) -> Decision:
    count, places = int((near.sizes > 1).sum()), np.flatnonzero(near.sizes == near.sizes.max())
    same = places[near.groups[places] == near.groups[places[0]]]
    shown = first_few([ids[int(place)] for place in same], 3)
    return Decision(
        name="near duplicates",
        choice=f"{count} of {len(ids)} pictures are kept together in "
        f"{len(np.unique(near.groups[near.sizes > 1]))} groups, such as {shown}",
        evidence="thumbnails without brightness, contrast and gradient are nearer than "
        f"{near.bound:.0e} unrelated pictures of the class are expected to be",
        certainty="measured",
        option="--group none",
    )


def _union(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups that are connected by either grouping."""
    from scipy.sparse import coo_matrix  # Slow to import; workers do without.
    from scipy.sparse.csgraph import connected_components

    n = len(first)
    a = np.unique(first, return_inverse=True)[1]
    b = np.unique(second, return_inverse=True)[1]
    nodes = int(a.max()) + 1
    edges = coo_matrix((np.ones(n), (a, b + nodes)), (nodes + int(b.max()) + 1,) * 2)
    labels: NDArray[np.int64] = connected_components(edges, directed=False)[1][a].astype(np.int64)
    return labels


def assign_parts(
    checked: CheckedSamples, seed: int, times: Times | None = None
) -> NDArray[np.str_]:
    """Assign each sample to a part; without groups, equal samples or recordings stay in one part.

    Parameters
    ----------
    checked : CheckedSamples
        The samples.
    seed : int
        Of the draw.
    times : Times, optional
        Parts are cut in the order of these times instead of being drawn.

    Raises
    ------
    DataError
        As `split` and `split_by_time`, or if a class has too few different pictures.
    """
    samples, groups = checked.samples, checked.samples.groups
    if times is not None and window_times.is_cut_through(samples):
        return window_times.split_windows(samples, times.seconds)
    if groups is None and len(set(checked.digests)) < len(samples):
        groups = _copies(checked.digests)
    elif groups is not None and samples.recordings is not None:
        groups = _with_equal_recordings(groups, samples.recordings, checked.digests)
    if samples.groups is None or checked.are_groups_found:
        _check_copies(samples, _copies(checked.digests))
    if times is not None:
        return split_by_time(
            samples.labels,
            samples.class_names,
            samples.parts,
            groups,
            times.seconds,
            samples.noun,
        )
    return split(
        samples.labels,
        samples.class_names,
        samples.parts,
        groups,
        seed,
        samples.ids,
        samples.noun,
    )


def with_split_decision(
    checked: CheckedSamples, parts: NDArray[np.str_], seed: int
) -> CheckedSamples:
    """Samples with the decision on parts that were drawn; as given where the data have all."""
    samples, wanted = checked.samples, _wanted(checked.samples)
    if not wanted:
        return checked
    counts = ", ".join(f"{int((parts == name).sum())} {name}" for name in PARTS)
    whole = "" if samples.groups is None else f", {len(np.unique(samples.groups))} groups whole"
    decision = Decision(
        name="split",
        choice=f"{' and '.join(wanted)} drawn at random: {counts}",
        evidence=f"the data give no {' and no '.join(wanted)} part; class by class, seed {seed}"
        f"{whole}",
        certainty="assumed",
        option="--test, --seed, --group, or parts in the data",
        is_detail=True,
    )
    samples = dataclasses.replace(samples, decisions=(*samples.decisions, decision))
    return dataclasses.replace(checked, samples=samples)


def stated_times(samples: Samples, column: str | None) -> Times | None:
    """The times in the attribute that `--time` names; None without that option.

    Raises
    ------
    ConfigError
        If there is no such attribute, or nothing is to be split.
    DataError
        If a value is no time.
    """
    if column is None:
        return None
    if column not in samples.attributes:
        near = plugins.unknown_name(column, list(samples.attributes), "column of the data")
        raise ConfigError(
            f"--time {column!r}: the data have no such column",
            fix=near.fix if samples.attributes else "give a table (.csv) with a column of times",
        )
    if not _wanted(samples):
        raise ConfigError(
            f"--time {column} has no effect: the data have a validation and a test part",
            fix="leave --time out, or leave the given parts out with --parts none",
        )
    is_pool = np.full(len(samples), True)
    if samples.parts is not None:
        is_pool = np.isin(samples.parts, ("", "train"))
    return read_times(column, samples.attributes[column], samples.ids, is_pool)


def cut_through_for(checked: CheckedSamples, times: Times | None) -> CheckedSamples:
    """Samples whose recordings may be cut in time: of one recording, or without groups."""
    if times is None:
        return checked
    return dataclasses.replace(checked, samples=window_times.cut_through(checked.samples))


def with_time_decision(
    checked: CheckedSamples, times: Times, parts: NDArray[np.str_]
) -> CheckedSamples:
    """Samples with the record of where parts were cut in time."""
    samples = checked.samples
    decision = times.decision(parts, _wanted(samples), samples.groups)
    if window_times.is_cut_through(samples):
        left = int((parts == window_times.LEFT_OUT).sum())
        each = window_times.clocks_restart(samples, times.seconds)
        where = "each recording by its own clock" if each else "all recordings at the same times"
        text = f"{decision.choice}; {where}; {left} windows with values of two parts are left out; "
        text += "intervals count blocks of time of 4 windows"
        decision = dataclasses.replace(decision, choice=text)
        samples = dataclasses.replace(samples, groups=window_times.blocks(samples, parts))
    changed = dataclasses.replace(samples, decisions=(*samples.decisions, decision))
    return dataclasses.replace(checked, samples=changed)


def _copies(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Group of each sample: index of the first sample with the same picture."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, n) for n, digest in enumerate(digests)], np.int64)


def _with_equal_recordings(
    groups: NDArray[np.int64], recordings: NDArray[np.int64], digests: Sequence[bytes]
) -> NDArray[np.int64]:
    """Groups with equal recordings in one, where each group is a recording; else as given.

    Recordings are equal where all windows are: single ones, such as of silence, chain nothing.
    """
    pairs = {*zip(groups.tolist(), recordings.tolist(), strict=True)}
    if not len(pairs) == len(np.unique(groups)) == len(np.unique(recordings)):
        return groups
    contents: dict[int, list[bytes]] = {}
    for group, digest in zip(groups.tolist(), digests, strict=True):
        contents.setdefault(group, []).append(digest)
    first: dict[tuple[bytes, ...], int] = {}
    same = {group: first.setdefault(tuple(each), group) for group, each in contents.items()}
    return np.array([same[group] for group in groups.tolist()], np.int64)


def _wanted(samples: Samples) -> list[str]:
    """Parts that have to be drawn."""
    if samples.parts is None:
        return list(PARTS[1:])
    return [part for part in PARTS[1:] if not (samples.parts == part).any()]


def _check_copies(samples: Samples, groups: NDArray[np.int64]) -> None:
    """Refuse a class that has fewer different pictures than parts to be drawn."""
    given = np.full(len(samples), "") if samples.parts is None else samples.parts
    wanted = ["train", *_wanted(samples)]
    if len(wanted) == 1:
        return
    pool = np.isin(given, ["", "train"])
    few = []
    for label, name in enumerate(samples.class_names):
        places = np.flatnonzero(pool & (samples.labels == label))
        different = len(np.unique(groups[places]))
        if different < min(len(wanted), len(places)):
            copied = places[groups[places] != places]
            example = f"such as {samples.ids[copied[0]]} of {samples.ids[groups[copied[0]]]}"
            few.append(
                f"{name!r} has {different} among {len(places)}, the others are copies, {example}"
            )
    if few:
        noun = samples.noun
        raise DataError(
            f"too few different {noun} in {len(few)} of {len(samples.class_names)} classes: "
            f"{first_few(few, 3)}; equal {noun} stay in one part, and every class needs at least "
            f"{len(wanted)} different ones to be in each part ({', '.join(wanted)})",
            fix=f"add other {noun} of these classes, or give a test part of your own; classes of "
            "unequal size need no copies (--balance)",
        )


def select(pictures: Pictures, places: NDArray[np.int64]) -> Pictures:
    """The pictures at the indices `places`, in that order."""
    if isinstance(pictures, np.ndarray):
        return large_arrays.take(pictures, places)
    return tuple(pictures[place] for place in places)


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


def kind_text(checked: CheckedSamples) -> str:
    """What the samples are, such as `grey pictures 28x28`."""
    if checked.samples.signals is not None and checked.size is not None:
        channels = f"{checked.channels} channel{'s' * (checked.channels > 1)}"
        return f"signals of {checked.size[1]} values in {channels}"
    if (audio := checked.samples.audio) is not None and checked.samples.sound is not None:
        return f"windows of {checked.samples.sound.shape[1]} audio samples at {audio.rate} Hz"
    size = "of varying sizes" if checked.size is None else "{}x{}".format(*checked.size)
    kinds = {1: "grey pictures", 3: "RGB pictures"}
    kind = kinds.get(checked.channels, f"pictures with {checked.channels} channels")
    return f"{kind} {size}"


def summary_event(name: str, checked: CheckedSamples, counts: tuple[int, int, int]) -> Event:
    """The event that summarises the data in one line."""
    classes = len(checked.samples.class_names)
    return Event(
        "data",
        f"{name}: {sum(counts)} {kind_text(checked)}, {classes} classes; "
        f"{counts[0]} train, {counts[1]} validation, {counts[2]} test",
        data={"train": counts[0], "validation": counts[1], "test": counts[2]},
    )


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
    near = difflib.get_close_matches(data, names, n=1)
    raise DataError(
        f"{data} {what}",
        fix=(f"did you mean {near[0]!r}? " if near else "")
        + "give a folder with one sub-folder of pictures per class, a table (.csv) of paths and "
        "labels, an .npz file, MODULE:ATTRIBUTE of a data set in Python, or digits (known sources: "
        f"{', '.join(names)})",
    )


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
    return _filled(data, source(**used).read_raw(data))


def _filled(data: str, samples: RawSamples | Samples) -> RawSamples | Samples:
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
        more = _subset(more, np.flatnonzero(own))
    if not len(more):
        raise DataError(
            f"--test {test} has no test part",
            fix=f"give a folder or file with test {samples.noun}",
        )
    if (samples.audio is None) != (more.audio is None) or _lengths(samples) != _lengths(more):
        raise DataError(
            f"--test {test} does not hold such samples as {data}: "
            f"{_lengths(samples) or 'pictures'} and {_lengths(more) or 'pictures'}",
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
        value_type=samples.value_type if samples.value_type == more.value_type else "float32",
        deep=None
        if samples.deep is None or more.deep is None
        else _joined_deep([samples.deep, more.deep]),
    )


def _lengths(samples: Samples) -> tuple[int, ...] | None:
    """Length and channels of signals, length of windows of sound; None for pictures."""
    return None if samples.are_pictures else np.asarray(samples.pictures).shape[1:]


def _of_test(decision: Decision) -> Decision:
    return dataclasses.replace(decision, name=f"{decision.name} of --test")


def _class_index(name: str, class_names: tuple[str, ...], test: Path) -> int:
    if name in class_names:
        return class_names.index(name)
    numbered = name.isdecimal() and not any(known.isdecimal() for known in class_names)
    if numbered and int(name) < len(class_names):
        return int(name)
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


def _rows(samples: Samples, places: NDArray[np.int64]) -> Pictures | Signals | Audio:
    if samples.are_pictures:
        return select(samples.only_pictures, places)
    return large_arrays.take(np.asanyarray(samples.pictures), places)


def _subset(samples: Samples, places: NDArray[np.int64]) -> Samples:
    return dataclasses.replace(
        samples,
        pictures=_rows(samples, places),
        deep=None if samples.deep is None else samples.deep[places],
        labels=samples.labels[places],
        ids=tuple(samples.ids[place] for place in places),
        parts=None if samples.parts is None else samples.parts[places],
        groups=None if samples.groups is None else samples.groups[places],
        recordings=None if samples.recordings is None else samples.recordings[places],
        spans=None if samples.spans is None else samples.spans[places],
        attributes={
            name: tuple(column[place] for place in places)
            for name, column in samples.attributes.items()
        },
    )


def _with_size(digest: bytes, size: tuple[int, int]) -> bytes:
    return hashlib.sha256(repr(size).encode() + digest).digest()


def _channels(samples: Samples, infos: list[PictureInfo]) -> int:
    others = {
        picture.shape[2]: name
        for name, picture in zip(samples.ids, samples.only_pictures, strict=True)
        if isinstance(picture, np.ndarray) and picture.ndim == 3
    }
    if not others.keys() <= {1, 3}:
        if len(others) > 1 or len(infos) > len(samples.only_pictures):
            shown = ", ".join(f"{name} has {count}" for count, name in sorted(others.items()))
            raise DataError(
                f"pictures have different numbers of channels: {shown}",
                fix="give all pictures the same channels",
            )
        return int(next(iter(others)))
    # The test part must not influence the net.
    parts = [""] * len(infos) if samples.parts is None else samples.parts.tolist()
    colour = any(not h.is_grey for h, part in zip(infos, parts, strict=True) if part != "test")
    return 3 if colour else 1


def _report_unreadable(
    bad: list[DataError], total: int, skip_corrupt: bool, quarantine: Path | None, emit: Emit
) -> None:
    shown = "; ".join(error.what for error in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    if not skip_corrupt or len(bad) == total:
        raise DataError(
            f"{len(bad)} of {total} pictures cannot be read: {shown}{more}",
            fix="repair or remove these files"
            + ("" if skip_corrupt else ", or give --skip-corrupt to ignore them"),
        )
    where = ""
    if quarantine is not None:
        files.write(quarantine, "".join(f"{printable(error.what)}\n" for error in bad))
        where = f", listed in {quarantine}"
    message = f"ignored {len(bad)} of {total} pictures that cannot be read{where}: {shown}{more}"
    emit(Event("data", message, data={"left_out": len(bad)}))
