"""Findings that take too long or matter too little for each run: `lepton data` reports them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from lepton_automl.core.units import counted
from lepton_automl.data.audit.checks import Finding, SampleKey, audit
from lepton_automl.data.dataset import Dataset, Part
from lepton_automl.data.signals import constant_channels
from lepton_automl.data.splits import near_duplicates
from lepton_automl.metrics.intervals import is_near_chance

MAX_SAMPLES = 30_000
"""Samples that are decoded for channel statistics and for what compares all classes; of more as
many are taken from each part, evenly spaced."""
_SIDE = 32
"""Rows and columns of a decoded sample at most."""
_CARRIES = 1e-4
"""Probability by chance below which a property is said to carry the label."""
_MOST_VALUES = 20
"""Values of a property above which it is not tested."""


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small copies of samples of all parts, decoded as nets see them."""

    pixels: NDArray[np.uint8]
    """uint8 (N, H, W, C), H and W at most 32; of signals (N, 1, length, C), whole."""
    keys: tuple[SampleKey, ...]
    """Part and place of each."""
    labels: NDArray[np.int64]

    def of_part(self, name: str) -> NDArray[np.uint8]:
        """Those of one part, which lie one after the other."""
        parts = [part for part, _ in self.keys]
        start = parts.index(name) if name in parts else 0
        return self.pixels[start : start + parts.count(name)]


def make_thumbnails(dataset: Dataset) -> Thumbnails:
    """Decode at most `MAX_SAMPLES` samples.

    Raises
    ------
    DataError
        If a picture file was removed or damaged since the data were opened.
    """
    size = dataset.size or (_SIDE, _SIDE)
    if not dataset.is_signal:
        size = min(size[0], _SIDE), min(size[1], _SIDE)
    total = sum(len(part) for part in dataset.parts)
    pixels, labels, keys = [], [], []
    for part in dataset.parts:
        count = len(part) if total <= MAX_SAMPLES else MAX_SAMPLES * len(part) // total
        if not count:
            continue
        places = np.linspace(0, len(part) - 1, count).round().astype(np.int64)
        pixels.append(dataset.pixels(part.name, size, places))
        labels.append(part.labels[places])
        keys += [(part.name, int(place)) for place in places]
    return Thumbnails(np.concatenate(pixels), tuple(keys), np.concatenate(labels))


def full_audit(dataset: Dataset, thumbs: Thumbnails) -> tuple[Finding, ...]:
    """Those of `audit`, and all that concern single parts, other classes and stored formats."""
    return (
        *_unreadable(dataset),
        *audit(dataset),
        *_copies(dataset),
        *_near_copies(dataset),
        *_near_contradictions(dataset, thumbs),
        *_label_carriers(dataset),
        *_constant_channels(dataset, thumbs),
    )


def _unreadable(dataset: Dataset) -> Iterator[Finding]:
    if count := len(dataset.unreadable):
        yield Finding(
            "unreadable files",
            unreadable_text(dataset),
            "repair or remove these files, or give --skip-corrupt to ignore them",
            count,
        )


def unreadable_text(dataset: Dataset) -> str:
    """How many files cannot be read; of recordings, which become several windows, no share."""
    count = len(dataset.unreadable)
    if dataset.kind != "pictures":
        return f"{counted(count, 'recording')} cannot be read"
    total = count + sum(len(part) for part in dataset.parts)
    return f"{count} of {total} pictures cannot be read"


def _copies(dataset: Dataset) -> Iterator[Finding]:
    for part in dataset.parts:
        groups = _together(part, list(part.digests))
        if groups:
            count = sum(len(group) - 1 for group in groups)
            yield Finding(
                "duplicates within a part",
                f"{count} of {len(part)} {part.name} samples are equal to another one of the part: "
                f"{_names(part, groups[0])}",
                "nothing to do for a few: equal samples are kept in one part, and only count "
                "several times",
                count,
                groups,
            )


def _near_copies(dataset: Dataset) -> Iterator[Finding]:
    for part in dataset.parts:
        if part.near_duplicates is None:
            continue
        groups = tuple(
            group
            for group in _together(part, part.near_duplicates.tolist())
            if len({part.digests[place] for _, place in group}) > 1
        )
        if groups:
            count = sum(len({part.digests[place] for _, place in each}) - 1 for each in groups)
            yield Finding(
                "near duplicates within a part",
                f"{count} of {len(part)} {part.name} pictures are near duplicates of another one "
                f"of the part: {_names(part, groups[0])}",
                "nothing to do: they say less than as many independent pictures, which intervals "
                "regard",
                count,
                groups,
            )


def _together(part: Part, values: Sequence[object]) -> tuple[tuple[SampleKey, ...], ...]:
    """Samples of a part that share a value with another one."""
    places: dict[object, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return tuple(
        tuple((part.name, place) for place in each) for each in places.values() if len(each) > 1
    )


def _names(part: Part, group: Sequence[SampleKey]) -> str:
    return " and ".join(part.ids[place] for _, place in group[:2])


def _near_contradictions(dataset: Dataset, thumbs: Thumbnails) -> Iterator[Finding]:
    """Near duplicates of different classes, which the search within classes does not see."""
    if dataset.kind != "pictures" or min(thumbs.pixels.shape[1:3]) < near_duplicates.MIN_SIDE:
        return
    digests = [dataset.part(name).digests[place] for name, place in thumbs.keys]
    different = np.sort(np.unique(np.array(digests, object), return_index=True)[1])
    small = near_duplicates.thumbnails(np.ascontiguousarray(thumbs.pixels[different]))
    found = near_duplicates.confirmed(small, near_duplicates.find_certain(small))
    groups = []
    for first in np.flatnonzero(np.bincount(found, minlength=len(found)) > 1):
        own = different[found == first]
        if len(set(thumbs.labels[own].tolist())) > 1:
            groups.append(tuple(thumbs.keys[n] for n in own))
    if groups:
        shown = " and ".join(
            f"{dataset.part(name).ids[place]} "
            f"({dataset.class_names[dataset.part(name).labels[place]]})"
            for name, place in groups[0][:2]
        )
        count = sum(len(group) for group in groups)
        yield Finding(
            "near duplicates of another class",
            f"{count} pictures look nearly like one of another class: {shown}",
            "look at them; where the classes are not that alike, one label is wrong",
            count,
            tuple(groups),
        )


def _label_carriers(dataset: Dataset) -> Iterator[Finding]:
    """Properties of the files that tell the class, whatever is in the picture."""
    part = dataset.train
    if part.formats is None:
        return
    sizes = [f"{h}x{w}" for h, w in zip(part.formats.height, part.formats.width, strict=True)]
    properties: Mapping[str, NDArray[np.str_]] = {
        "EXIF orientation": part.formats.orientation.astype(str),
        "orientation": part.formats.shapes,
        "size": np.array(sizes),
        "kind of file": part.formats.kinds,
    }
    for name, values in properties.items():
        found, row = np.unique(values, return_inverse=True)
        if not 2 <= len(found) <= _MOST_VALUES:
            continue
        classes = len(dataset.class_names)
        table = np.zeros((len(found), classes))
        np.add.at(table, (row, part.labels), 1)
        # With the same share of each value in all classes a guess is right once in their number.
        shares = table / np.maximum(table.sum(0), 1)
        accuracy = float(shares.max(1).sum()) / classes
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        used = expected > 0
        score = float(((table - expected)[used] ** 2 / expected[used]).sum())
        if part.groups is not None:
            score *= len(np.unique(part.groups)) / len(part)
        chance = float(chdtrc((len(found) - 1) * (classes - 1), score))
        if chance >= _CARRIES or is_near_chance(accuracy, classes):
            continue
        shown = "; ".join(
            f"{value}: {dataset.class_names[most]} {100 * shares[place, most]:.0f} %, "
            f"{dataset.class_names[least]} {100 * shares[place, least]:.0f} %"
            for place, value in enumerate(found[:3])
            for most, least in [(int(shares[place].argmax()), int(shares[place].argmin()))]
        )
        yield Finding(
            "property carries the label",
            f"the class of {len(part)} train pictures follows from {name} alone with a balanced "
            f"accuracy of {100 * accuracy:.1f} %, by guessing {100 / classes:.1f} % (chi-squared "
            f"test, p = {chance:.1g}); {shown}",
            "take or crop pictures of every class alike; a net may learn this property instead of "
            "what the pictures show",
            len(part),
        )


def _constant_channels(dataset: Dataset, thumbs: Thumbnails) -> Iterator[Finding]:
    part = dataset.train
    if part.signals is not None:
        constant = constant_channels(part.signals)
        pixels = None
    else:
        pixels = thumbs.of_part("train")
        flat = pixels.reshape(-1, pixels.shape[3])
        constant = np.flatnonzero(flat.min(0) == flat.max(0)).tolist()
    if constant:
        yield Finding(
            "constant channels",
            f"channels {', '.join(map(str, constant))} (of 0 to {dataset.channels - 1}) have one "
            "value in the whole training part",
            "leave them out; they cost time and say nothing",
            len(part),
        )
    elif pixels is not None and pixels.shape[3] == 3 and (pixels == pixels[..., :1]).all():
        yield Finding(
            "equal channels",
            f"the three channels of {len(pixels)} train pictures are equal: they are grey",
            "--channels 1 makes smaller nets",
            len(part),
        )
