"""Assign samples to parts: as the data give them, drawn, or cut in time; and say which it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.units import first_few
from lepton_automl.data.checked_samples import CheckedSamples
from lepton_automl.data.samples import PARTS, Samples
from lepton_automl.data.splits import window_times
from lepton_automl.data.splits.groups import copy_groups
from lepton_automl.data.splits.split import split, split_by_time
from lepton_automl.data.splits.times import Times, read_times
from lepton_automl.errors import ConfigError, DataError


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
        groups = copy_groups(checked.digests)
    elif groups is not None and samples.recordings is not None:
        groups = _with_equal_recordings(groups, samples.recordings, checked.digests)
    if samples.groups is None or checked.are_groups_found:
        _check_copies(samples, copy_groups(checked.digests))
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
    samples, wanted = checked.samples, checked.samples.missing_parts
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
        If a value is not a time.
    """
    if column is None:
        return None
    if column not in samples.attributes:
        near = plugins.unknown_name(column, list(samples.attributes), "column of the data")
        raise ConfigError(
            f"--time {column!r}: the data have no such column",
            fix=near.fix if samples.attributes else "give a table (.csv) with a column of times",
        )
    if not samples.missing_parts:
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
    decision = times.decision(parts, samples.missing_parts, samples.groups)
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


def _check_copies(samples: Samples, groups: NDArray[np.int64]) -> None:
    """Refuse a class that has fewer different pictures than parts to be drawn."""
    given = np.full(len(samples), "") if samples.parts is None else samples.parts
    wanted = ["train", *samples.missing_parts]
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
