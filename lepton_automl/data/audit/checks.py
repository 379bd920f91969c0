"""Audit a data set for duplicates, leaking groups, contradictory labels and small classes.

`open_dataset` raises an error for unusable data (empty, damaged, one class, a class too small).
The findings here do not stop a run; each states its effect on the results.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lepton_automl.core.events import Emit, Event
from lepton_automl.core.units import counted
from lepton_automl.data.audio import silent_windows
from lepton_automl.data.dataset import Dataset, Part
from lepton_automl.data.pictures.pixel_scale import OPTION
from lepton_automl.metrics.balanced import UNEVEN_RATIO, is_uneven

_FEW_SAMPLES = 10
"""Test samples of a class below which its accuracy is very uncertain."""
_FLAT_SHARE = 0.1
"""Share of a part's pictures without any contrast from which they are reported."""
_TWO_LEVELS = 0.99
"""Share of a picture's pixels at its darkest and brightest level from which it has only these."""
_FEW_LEVELS = 16
"""Levels of 0 to 255 between which all pixels of a part lie, below which they are reported."""


SampleKey = tuple[str, int]
"""Name of a part, and index in it."""


@dataclass(frozen=True)
class Finding:
    """A property of the data that affects results."""

    kind: str
    """`duplicates`, `near duplicates`, `contradictions`, `leaking groups`, `flat pictures`,
    `two levels`, `few levels`, `silence`, `names alike`, `absent classes`, `few samples`, `uneven
    classes`; those
    of `data.audit.full_audit` besides."""
    message: str
    """Property, number of samples and an example."""
    fix: str
    """How to correct it, and its effect."""
    count: int
    """Affected samples; of `names alike` and the findings that follow it classes."""
    samples: tuple[tuple[SampleKey, ...], ...] = ()
    """Samples that belong together, such as two duplicates; empty where no samples are named."""


def audit(dataset: Dataset) -> tuple[Finding, ...]:
    """All findings, the most serious first."""
    checks = (
        *(_leaking_groups, _duplicates, _near_duplicates, _contradictions, _levels, _silence),
        *(_names_alike, _absent_classes, _few_samples, _uneven_classes),
    )
    return tuple(finding for check in checks for finding in check(dataset))


def emit_findings(dataset: Dataset, emit: Emit) -> tuple[Finding, ...]:
    """Emit each finding of `audit` as an event, and return them."""
    findings = audit(dataset)
    for finding in findings:
        data = {"kind": finding.kind, "count": finding.count, "fix": finding.fix}
        emit(Event("data", f"{finding.message} ({finding.fix})", data=data))
    return findings


def _leaking_groups(dataset: Dataset) -> Iterator[Finding]:
    """Groups, stated or in file names, of which samples are in two parts.

    Groups that were found in pictures do not count: where they are large some of their pictures are
    unrelated. `_near_duplicates` names those that are not.
    """
    for first, second in combinations(dataset.parts, 2):
        known, groups = first.certain_groups, second.certain_groups
        if known is None or groups is None:
            continue
        shared = np.intersect1d(known, groups)
        leaking = np.isin(groups, shared)
        count = int(leaking.sum())
        if count:
            place_of = dict(zip(known.tolist(), range(len(first)), strict=True))
            yield Finding(
                "leaking groups",
                f"{len(shared)} groups are in {first.name} and in {second.name}: {count} of "
                f"{len(second)} {second.name} samples share a group with {first.name}",
                f"split by groups; accuracy on {second.name} is too high",
                count,
                tuple(
                    ((first.name, place_of[int(groups[n])]), (second.name, int(n)))
                    for n in np.flatnonzero(leaking)
                ),
            )


def _duplicates(dataset: Dataset) -> Iterator[Finding]:
    for first, second in combinations(dataset.parts, 2):
        place_of = dict(zip(first.digests, range(len(first)), strict=True))
        duplicates = [n for n, digest in enumerate(second.digests) if digest in place_of]
        if duplicates:
            other = first.ids[place_of[second.digests[duplicates[0]]]]
            example = f"{second.ids[duplicates[0]]} is {other}"
            yield Finding(
                "duplicates",
                f"{len(duplicates)} of {len(second)} {second.name} samples are also in "
                f"{first.name}: {example}",
                f"remove them from one part; accuracy on {second.name} is too high",
                len(duplicates),
                tuple(
                    ((first.name, place_of[second.digests[n]]), (second.name, n))
                    for n in duplicates
                ),
            )


def _near_duplicates(dataset: Dataset) -> Iterator[Finding]:
    """Pictures of a given part that are near duplicates of another part, and not equal to one."""
    for first, second in combinations(dataset.parts, 2):
        if first.near_duplicates is None or second.near_duplicates is None:
            continue
        place_of = dict(zip(first.near_duplicates.tolist(), range(len(first)), strict=True))
        equal = set(first.digests)
        near = [
            (place_of[group], n)
            for n, (group, digest) in enumerate(
                zip(second.near_duplicates.tolist(), second.digests, strict=True)
            )
            if group in place_of and digest not in equal
        ]
        if near:
            shown = "; ".join(f"{second.ids[n]} and {first.ids[other]}" for other, n in near[:3])
            yield Finding(
                "near duplicates",
                f"{len(near)} of {len(second)} {second.name} pictures are near duplicates of "
                f"{first.name} pictures: {shown}",
                f"keep them in one part; accuracy on {second.name} may be too high",
                len(near),
                tuple(((first.name, other), (second.name, n)) for other, n in near),
            )


def _contradictions(dataset: Dataset) -> Iterator[Finding]:
    first: dict[bytes, tuple[int, SampleKey]] = {}
    pairs: list[tuple[SampleKey, SampleKey]] = []
    for part in dataset.parts:
        for n, (digest, label) in enumerate(zip(part.digests, part.labels.tolist(), strict=True)):
            known, other = first.setdefault(digest, (label, (part.name, n)))
            if known != label:
                pairs.append((other, (part.name, n)))
    if pairs:
        known_name, name = (_labelled(dataset, key) for key in pairs[0])
        yield Finding(
            "contradictions",
            f"{counted(len(pairs), 'sample')} {'is' if len(pairs) == 1 else 'are'} equal to one of "
            f"another class: {name} is {known_name}",
            "correct the labels; no net can predict both",
            len(pairs),
            tuple(pairs),
        )


def _labelled(dataset: Dataset, key: SampleKey) -> str:
    """Name and class of a sample."""
    part = dataset.part(key[0])
    return f"{part.ids[key[1]]} ({dataset.class_names[part.labels[key[1]]]})"


def _levels(dataset: Dataset) -> Iterator[Finding]:
    """Parts of which little is left after the conversion to 8 bits."""
    for part in dataset.parts:
        levels = part.levels
        if levels is None or not len(levels):
            continue
        is_flat = levels.low == levels.high
        if (count := int(is_flat.sum())) >= max(2, _FLAT_SHARE * len(part)):
            example = part.ids[int(is_flat.argmax())]
            yield Finding(
                "flat pictures",
                f"{count} of {len(part)} {part.name} pictures have the same value everywhere, such "
                f"as {example}",
                f"look at these pictures; {OPTION} states black and white of the stored values",
                count,
            )
        rest = levels.select(~is_flat)
        if not len(rest):
            continue
        low, high = int(rest.low.min()), int(rest.high.max())
        if (count := int((rest.extreme_share >= _TWO_LEVELS).sum())) >= 0.9 * len(part):
            yield Finding(
                "two levels",
                f"{count} of {len(part)} {part.name} pictures have hardly more than two levels, "
                f"{low} to {high} of 0 to 255",
                f"nothing to do if they are drawings or masks; else {OPTION} states black and "
                "white of the stored values",
                count,
            )
        elif high - low < _FEW_LEVELS:
            yield Finding(
                "few levels",
                f"pixels of the {part.name} part only reach from {low} to {high} of 0 to 255",
                f"if more detail is stored, {OPTION} states black and white of the stored values",
                len(part),
            )


def _silence(dataset: Dataset) -> Iterator[Finding]:
    """Windows of sound with the same value throughout."""
    for part in dataset.parts:
        if part.audio is None:
            continue
        is_silent = silent_windows(part.audio)
        if count := int(is_silent.sum()):
            yield Finding(
                "silence",
                f"{count} of {len(part)} {part.name} windows have the same value throughout, such "
                f"as {part.ids[int(is_silent.argmax())]}",
                "listen to these recordings and remove them, unless their class is silence",
                count,
            )


def _names_alike(dataset: Dataset) -> Iterator[Finding]:
    """Classes whose names differ in case, spaces, dashes or forms of characters (NFKC) only."""
    alike: dict[str, list[str]] = {}
    for name in dataset.class_names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(re.sub(r"[\s_-]+", "", plain) or name, []).append(name)
    found = [names for names in alike.values() if len(names) > 1]
    if found:
        yield Finding(
            "names alike",
            f"{sum(map(len, found))} classes have names that differ in case, spaces, dashes or the "
            f"form of characters only: {'; '.join(map(_shown, found[:3]))}",
            "if they are one class give them one name; else nothing to do",
            sum(map(len, found)),
        )


def _shown(names: list[str]) -> str:
    """Names, with codes of characters where two of them look the same."""
    looks = {unicodedata.normalize("NFC", name) for name in names}
    return ", ".join(map(repr if len(looks) == len(names) else ascii, names))


def _absent_classes(dataset: Dataset) -> Iterator[Finding]:
    for part in (dataset.validation, dataset.test):
        absent = [
            n for n, c in zip(dataset.class_names, _counts(dataset, part), strict=True) if not c
        ]
        if absent:
            yield Finding(
                "absent classes",
                f"{len(absent)} of {len(dataset.class_names)} classes have no {part.name} "
                f"{dataset.noun}: {', '.join(absent[:5])}",
                f"add {part.name} samples; accuracy does not cover these classes",
                len(absent),
            )


def _few_samples(dataset: Dataset) -> Iterator[Finding]:
    counts = _counts(dataset, dataset.test)
    few = [
        f"{n} {c}" for n, c in zip(dataset.class_names, counts, strict=True) if 0 < c < _FEW_SAMPLES
    ]
    if few:
        yield Finding(
            "few samples",
            f"{len(few)} of {len(counts)} classes have fewer than {_FEW_SAMPLES} test samples: "
            f"{', '.join(few[:5])}",
            "add test samples; accuracy of these classes is very uncertain",
            len(few),
        )


def _uneven_classes(dataset: Dataset) -> Iterator[Finding]:
    labels, names = dataset.train.labels, dataset.class_names
    if not is_uneven(labels):
        return
    counts = _counts(dataset, dataset.train)
    rare, common = int(np.argmin(counts)), int(np.argmax(counts))
    few = counted(int(counts[rare]), "train sample")
    what = f"{names[rare]} has {few}, {names[common]} {counts[common]}: "
    if dataset.train.is_balanced:
        what += "classes have equal weight in training and in accuracy (balanced accuracy)"
        fix = "--balance off weights samples equally"
    else:
        what += "samples have equal weight, so rare classes hardly affect the accuracy"
        fix = "--balance on weights classes equally"
    yield Finding("uneven classes", what, fix, sum(n < UNEVEN_RATIO * max(counts) for n in counts))


def _counts(dataset: Dataset, part: Part) -> list[int]:
    counts: list[int] = np.bincount(part.labels, minlength=len(dataset.class_names)).tolist()
    return counts
