"""Groups of samples that stay in one part: stated ones, or those that pictures and names show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import large_arrays
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.core.units import first_few
from lepton_automl.data.checked_samples import CheckedSamples
from lepton_automl.data.pictures.pixel_scale import (
    SIXTEEN_BIT,
    PixelScale,
)
from lepton_automl.data.samples import PARTS, Samples, select
from lepton_automl.data.splits import near_duplicates
from lepton_automl.data.splits.name_groups import (
    find_name_groups,
    groups_by_attribute,
    groups_by_pattern,
)
from lepton_automl.data.splits.near_duplicates import NearDuplicates
from lepton_automl.option_texts import NONE, group_pattern

_MANY = 20_000
"""Pictures from which the search for near duplicates takes seconds and is announced."""


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
    samples, copies = checked.samples, copy_groups(checked.digests)
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
    if samples.groups is not None or not samples.missing_parts:
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
        return checked  # Copies alone stay together too, but are not groups in the statistics.
    groups = _union(copies, near_groups)
    groups = groups if by_name is None else _union(groups, by_name)
    checked = _with_few_groups_decision(checked, groups)
    checked = _grouped(checked, _with_enough_groups(groups, copies, samples.labels))
    return dataclasses.replace(checked, are_groups_found=True, name_groups=by_name)


def _thumbnails(
    checked: CheckedSamples, places: NDArray[np.int64], scale: PixelScale
) -> NDArray[np.uint8]:
    """Grey thumbnails of pictures; files with more than 8 bits are read again for their scale."""
    pictures = checked.samples.only_pictures
    if checked.thumbs is None or checked.levels is None:
        return near_duplicates.thumbnails(select(pictures, places), scale)
    thumbs = large_arrays.take(checked.thumbs, places)
    high = np.flatnonzero(checked.levels.is_above_8_bits[places])
    if scale != SIXTEEN_BIT and len(high):
        thumbs[high] = near_duplicates.thumbnails(select(pictures, places[high]), scale)
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
    if samples.groups is not None or not samples.missing_parts:
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
    is_whole = count > len(samples.missing_parts)
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


def copy_groups(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Group of each sample: index of the first sample with the same picture."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, n) for n, digest in enumerate(digests)], np.int64)
