"""Load labelled pictures: find the source, check every picture, assign the parts."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import files, plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.data import decode
from lepton_automl.data.decode import PictureInfo
from lepton_automl.data.sources import Picture, Pictures, Samples, Source
from lepton_automl.data.split import split
from lepton_automl.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class CheckedSamples:
    """Samples whose pictures have all been read once and found valid."""

    samples: Samples
    digests: tuple[bytes, ...]
    """Hash of each picture's content: of the file, or of shape and pixels."""
    channels: int
    """3 if a picture outside the test part has colour, else 1."""
    size: tuple[int, int] | None
    """Height and width (pixels) that all pictures share, or None."""


def read_samples(data: str, test: Path | None) -> Samples:
    """Read the samples of `data`, with those of `test` as their test part.

    Raises
    ------
    DataError
        If no source accepts the data, they cannot be used, or `test` has another class.
    ConfigError
        If there are two test parts.
    """
    samples = _read(data)
    return samples if test is None else _with_test(samples, data, test)


def check_pictures(
    samples: Samples, skip_corrupt: bool, quarantine: Path | None, emit: Emit
) -> CheckedSamples:
    """Read every picture once: check that it is valid, take its size and its hash.

    Raises
    ------
    DataError
        If picture files cannot be read and `skip_corrupt` is false.
    MachineError
        If the list of ignored files cannot be written to `quarantine`.
    """
    pictures = samples.pictures
    if isinstance(pictures, np.ndarray):
        digests = tuple(hashlib.sha256(row).digest() for row in np.ascontiguousarray(pictures))
        return CheckedSamples(samples, digests, pictures.shape[3], pictures.shape[1:3])
    total = len(samples)

    def on_item(done: int) -> None:
        if done % 500 == 0:
            emit(Event("data", "checking pictures", done, total))

    results = decode.map_in_threads(_check_one, pictures, on_item)
    valid = [result for result in results if not isinstance(result, DataError)]
    if len(valid) < total:
        invalid = [result for result in results if isinstance(result, DataError)]
        _report_unreadable(invalid, total, skip_corrupt, quarantine, emit)
        index = [n for n, result in enumerate(results) if not isinstance(result, DataError)]
        samples = _subset(samples, np.array(index, np.int64))
    infos = [info for info, _ in valid]
    sizes = {info.size for info in infos}
    size = sizes.pop() if len(sizes) == 1 else None
    digests = tuple(digest for _, digest in valid)
    return CheckedSamples(samples, digests, _channels(samples, infos), size)


def assign_parts(checked: CheckedSamples, seed: int) -> NDArray[np.str_]:
    """Assign each sample to a part; without groups, equal pictures stay in one part.

    Raises
    ------
    DataError
        As `split`.
    """
    samples, groups = checked.samples, checked.samples.groups
    if groups is None and len(set(checked.digests)) < len(samples):
        first: dict[bytes, int] = {}
        places = [first.setdefault(digest, n) for n, digest in enumerate(checked.digests)]
        groups = np.array(places, np.int64)
    return split(samples.labels, samples.class_names, samples.parts, groups, seed)


def select(pictures: Pictures, places: NDArray[np.int64]) -> Pictures:
    """The pictures at the indices `places`, in that order."""
    if isinstance(pictures, np.ndarray):
        return pictures[places]
    return tuple(pictures[place] for place in places)


def dataset_name(data: str) -> str:
    """A short name for `data`, valid as a folder name: `flowers5` for `x/flowers5/train`."""
    path = Path(data).absolute()
    named = path.parent if path.name in {"train", "training"} and path.parent.name else path
    stem = named.stem if named.suffix == ".npz" else named.name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "data"


def summary_event(name: str, checked: CheckedSamples, counts: tuple[int, int, int]) -> Event:
    """The event that summarises the data in one line."""
    size = "of varying sizes" if checked.size is None else "{}x{}".format(*checked.size)
    colour = "grey" if checked.channels == 1 else "RGB"
    classes = len(checked.samples.class_names)
    return Event(
        "data",
        f"{name}: {sum(counts)} {colour} pictures {size}, {classes} classes; "
        f"{counts[0]} train, {counts[1]} validation, {counts[2]} test",
        data={"train": counts[0], "validation": counts[1], "test": counts[2]},
    )


def _read(data: str) -> Samples:
    names = plugins.names("sources")
    # A built-in name precedes a folder of that name, which can be given as `./digits`.
    for name in sorted(names, key=lambda name: (name != data, name)):
        source = plugins.load("sources", name, Source)()  # type: ignore[type-abstract]
        if source.accepts(data):
            samples = source.read(data)
            if len(samples):
                return samples
            raise DataError(f"{data} holds no pictures", fix="give labelled pictures")
    what = "is not a supported kind of data" if Path(data).exists() else "does not exist"
    near = difflib.get_close_matches(data, names, n=1)
    raise DataError(
        f"{data} {what}",
        fix=(f"did you mean {near[0]!r}? " if near else "")
        + "give a folder with one sub-folder of pictures per class, a .npz file, or digits "
        f"(known sources: {', '.join(names)})",
    )


def _with_test(samples: Samples, data: str, test: Path) -> Samples:
    if samples.parts is not None and (samples.parts == "test").any():
        raise ConfigError(
            f"--test {test} is given, but {data} has a test part of "
            f"{(samples.parts == 'test').sum()} pictures",
            fix="omit --test, or give data without a test part",
        )
    more = _read(str(test))
    if more.parts is not None:
        own = more.parts == "test" if (more.parts == "test").any() else more.parts == ""
        more = _subset(more, np.flatnonzero(own))
    if not len(more):
        raise DataError(
            f"--test {test} has no test part", fix="give a folder or file with test pictures"
        )
    place = [_class_index(name, samples.class_names, test) for name in more.class_names]
    first = np.full(len(samples), "", "<U10") if samples.parts is None else samples.parts
    return Samples(
        pictures=_concatenate(samples.pictures, more.pictures),
        labels=np.concatenate([samples.labels, np.array(place, np.int64)[more.labels]]),
        class_names=samples.class_names,
        ids=samples.ids + tuple(f"{test}: {name}" for name in more.ids),
        parts=np.concatenate([first, np.full(len(more), "test", "<U10")]),
        groups=_concatenate_groups(samples, more),
        notes=samples.notes + more.notes,
        decisions=(*samples.decisions, *(_of_test(each) for each in more.decisions)),
    )


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
            return np.concatenate([first, second])
    return (*first, *second)


def _concatenate_groups(samples: Samples, more: Samples) -> NDArray[np.int64] | None:
    if samples.groups is None and more.groups is None:
        return None
    # Equal group names in two files do not mean the same group, so the second ones are renumbered.
    columns, start = [], 0
    for part in (samples, more):
        own = np.arange(len(part)) if part.groups is None else part.groups - part.groups.min()
        columns.append(own + start)
        start += int(own.max()) + 1
    return np.concatenate(columns)


def _subset(samples: Samples, places: NDArray[np.int64]) -> Samples:
    return dataclasses.replace(
        samples,
        pictures=select(samples.pictures, places),
        labels=samples.labels[places],
        ids=tuple(samples.ids[place] for place in places),
        parts=None if samples.parts is None else samples.parts[places],
        groups=None if samples.groups is None else samples.groups[places],
    )


def _check_one(picture: Picture) -> tuple[PictureInfo, bytes] | DataError:
    if isinstance(picture, np.ndarray):
        height, width, *channels = picture.shape
        digest = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
        return PictureInfo((height, width), channels in ([], [1])), digest
    try:
        return decode.check_picture(picture), bytes.fromhex(files.sha256(picture))
    except DataError as error:
        return error


def _channels(samples: Samples, infos: list[PictureInfo]) -> int:
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
        files.write(quarantine, os.fsencode("".join(f"{error.what}\n" for error in bad)))
        where = f", listed in {quarantine}"
    message = f"ignored {len(bad)} of {total} pictures that cannot be read{where}: {shown}{more}"
    emit(Event("data", message, data={"left_out": len(bad)}))
