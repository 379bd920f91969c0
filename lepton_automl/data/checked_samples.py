"""Read all pictures of samples once: whether they are valid, their sizes, channels and levels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import Channels
from lepton_automl.core import files, large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.data import decode_pool, picture_check
from lepton_automl.data.decode_pool import ReadOptions
from lepton_automl.data.picture_check import CheckedPicture, CheckResult
from lepton_automl.data.picture_check_cache import PictureCheckCache
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.decode import PictureInfo
from lepton_automl.data.pictures.formats import FormatTable
from lepton_automl.data.pictures.levels import LevelTable, scale_files
from lepton_automl.data.pictures.picture_files import Picture
from lepton_automl.data.pictures.pixel_scale import (
    EIGHT_BIT,
    OPTION,
    PixelScale,
)
from lepton_automl.data.samples import PARTS, Samples, UnreadableFile, subset
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.text import printable


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
    name_groups: NDArray[np.int64] | None = None
    """(N,): of groups that were found those that file names count; None: these count nothing."""
    formats: FormatTable | None = None
    """Size and kind of each picture as it is stored; None for signals."""
    unreadable: tuple[UnreadableFile, ...] = ()
    """Files that were left out."""
    thumbs: NDArray[np.uint8] | None = None
    """Grey uint8 (N, side, side) of `picture_check.THUMBNAIL`, by the scale of 16 bits; None for
    arrays."""
    known: PictureCheckCache | None = None
    """Remembers what was found in the files, and groups; None where there are few pictures."""


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
    if not levels.is_above_8_bits.any():
        if samples.pixel_scale is None and stated is not None and stated != EIGHT_BIT:
            raise ConfigError(
                f"{OPTION} {stated.name} has no effect: all pictures have 8 bits a channel",
                fix=f"leave {OPTION} out",
            )
        return checked
    parts = np.full(len(samples), "") if samples.parts is None else samples.parts
    is_training = np.isin(parts, ("", "train"))
    by_part = {
        name: levels.select(
            (is_training if name == "train" else parts == name) & levels.is_above_8_bits
        )
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
    reading: ReadOptions | None = None,
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
    reading : ReadOptions, optional
        In how many processes files are read.
    place : str
        Names the data; of many files what is found is remembered under it (`picture_check_cache`).

    Raises
    ------
    DataError
        If picture files cannot be read and `skip_corrupt` is false.
    MachineError
        If the list of ignored files cannot be written to `quarantine`.
    """
    if (signals := samples.signals) is not None:
        digests = tuple(hashlib.sha256(row).digest() for row in signals)
        return CheckedSamples(
            samples,
            digests,
            signals.shape[2],
            (1, signals.shape[1]),
            None,
            unreadable=samples.unreadable,
        )
    if (sound := samples.sound) is not None:
        digests = tuple(hashlib.sha256(row).digest() for row in sound)
        return CheckedSamples(samples, digests, 1, None, None, unreadable=samples.unreadable)
    pictures = samples.only_pictures
    if isinstance(pictures, np.ndarray):
        stored = pictures if samples.uint16_pixels is None else samples.uint16_pixels
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
            known=PictureCheckCache(place, (), is_forced=is_forced) if is_kept else None,
        )
    total = len(samples)

    results, known = _checked(pictures, reading or ReadOptions(emit=emit), place)
    valid = [result for result in results if isinstance(result, CheckedPicture)]
    unreadable = _unreadable_files(samples, results)
    if len(valid) < total:
        invalid = [result for result in results if isinstance(result, DataError)]
        _report_unreadable(invalid, total, skip_corrupt, quarantine, emit)
        index = [n for n, result in enumerate(results) if not isinstance(result, DataError)]
        samples = subset(samples, np.array(index, np.int64))
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
    pictures: Sequence[Picture], reading: ReadOptions, place: str
) -> tuple[list[CheckResult], PictureCheckCache | None]:
    """What is found in each picture; files that are known and have not changed are not read."""
    paths = [picture for picture in pictures if not isinstance(picture, np.ndarray)]
    if len(paths) < len(pictures):
        return decode.map_in_threads(picture_check.check_one, pictures), None
    if len(paths) < decode_pool.MANY or not place:
        return decode_pool.check(paths, reading), None
    known = PictureCheckCache(place, paths, is_forced=reading.is_forced)
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


def _no_picture_option(option: str, samples: Samples) -> ConfigError:
    kind = "signals" if samples.audio is None else "audio"
    return ConfigError(
        f"{option} has no effect: the data are {kind}, not pictures", fix="leave it out"
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
