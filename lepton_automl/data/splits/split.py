"""Split samples into train, validation and test: stratified and seeded, or in the order of time.

Groups are kept together in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.units import first_few
from lepton_automl.data.samples import PARTS
from lepton_automl.errors import DataError

_FRACTIONS = {"validation": 0.15, "test": 0.15}
"""Part -> fraction of the samples it gets where the data do not contain it."""

_RESTARTS = 10
"""Other orders of the groups that are tried where a part lacks a class."""

_DONORS = 32
"""Groups at most that are tried for a class that a part lacks."""

_MAX_COUNTS = 10_000_000
"""Groups times classes above which only groups of several samples are drawn one by one."""

Counts = NDArray[np.float64]
"""(groups, classes): samples."""


def split(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    parts: NDArray[np.str_] | None,
    groups: NDArray[np.int64] | None,
    seed: int,
    ids: Sequence[str] | None = None,
    noun: str = "pictures",
) -> NDArray[np.str_]:
    """Assign each sample (N,) to a part: given parts stay, missing ones are drawn from the rest.

    Without given parts: 70 % train, 15 % validation, 15 % test. With a test part: 15 % of the rest
    is validation. Every class gets at least one sample in each drawn part and in train; with groups
    where that is possible, and always in train.

    Parameters
    ----------
    labels : ndarray
        int64 (N,): indices into `class_names`.
    class_names : tuple of str
        At least two.
    parts, groups : ndarray or None
        (N,): given part or an empty string; group of each sample.
    seed : int
        Of the draw.
    ids : sequence of str, optional
        Names of the samples, for messages.
    noun : str
        What the samples are called in messages.

    Raises
    ------
    DataError
        If a class has too few samples for that, there are fewer groups than parts, groups keep a
        class out of train, or there are fewer than two classes.
    """
    given = np.full(len(labels), "", dtype="<U10") if parts is None else parts.astype("<U10")
    given[given == "train"] = ""
    pool = np.flatnonzero(given == "")
    wanted = [part for part in PARTS[1:] if not (given == part).any()]
    _check(labels[pool], class_names, wanted, noun, labels[given != ""])
    if groups is None:
        drawn = _by_class(labels[pool], wanted, seed)
    elif not wanted:
        drawn = np.full(len(pool), "train", "<U10")
    else:
        names = None if ids is None else [ids[int(place)] for place in pool]
        _check_groups(labels[pool], groups[pool], wanted, class_names, names, noun)
        drawn = _by_group(labels[pool], groups[pool], wanted, seed, len(class_names))
    given[pool] = drawn
    absent = set(range(len(class_names))) - set(labels[given == "train"].tolist())
    if absent:
        raise DataError(
            f"with groups kept together, train has no {noun} of "
            f"{', '.join(repr(class_names[label]) for label in sorted(absent))}",
            fix="give data of more groups with these classes, or a split of your own; "
            + _alone(noun),
        )
    return given


def split_by_time(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    parts: NDArray[np.str_] | None,
    groups: NDArray[np.int64] | None,
    times: NDArray[np.float64],
    noun: str = "pictures",
) -> NDArray[np.str_]:
    """Cut parts that are not given in the order of time: train the earliest, test the latest.

    Shares as in `split`. Samples of one time stay together, and so do those of one group, which
    counts as what it is at its end: so no training sample is later than the cut.

    Parameters
    ----------
    labels, class_names, parts, groups, noun
        As in `split`.
    times : ndarray
        float64 (N,): increasing with time; only those of samples to be split are used.

    Raises
    ------
    DataError
        If a class has too few samples, there are fewer different times than parts, or train lacks
        a class.
    """
    given = np.full(len(labels), "", dtype="<U10") if parts is None else parts.astype("<U10")
    given[given == "train"] = ""
    pool = np.flatnonzero(given == "")
    wanted = [part for part in PARTS[1:] if not (given == part).any()]
    _check(labels[pool], class_names, wanted, noun, labels[given != ""])
    numbers = (
        np.arange(len(pool)) if groups is None else np.unique(groups[pool], return_inverse=True)[1]
    )
    has_groups = groups is not None
    ends = np.full(int(numbers.max()) + 1, -np.inf)
    np.maximum.at(ends, numbers, times[pool])
    when = ends[numbers]
    moments, counts = np.unique(when, return_counts=True)
    if len(moments) <= len(wanted):
        raise DataError(
            f"the {len(pool)} {noun} to be split are of {len(moments)} different times, groups "
            f"at their end, but {len(wanted) + 1} parts (train, {', '.join(wanted)}) are needed",
            fix="give data of more times, or a test part of your own; without --time parts are "
            "drawn at random" + (", --group none cuts groups in time too" if has_groups else ""),
        )
    drawn = np.full(len(pool), "train", "<U10")
    last = len(moments)
    for left, part in zip(range(len(wanted), 0, -1), wanted[::-1], strict=True):
        # From the end: as many moments as come closest to the share, one is left for each other.
        sums = np.cumsum(counts[left:last][::-1])
        number = int(np.abs(sums - _FRACTIONS[part] * len(pool)).argmin()) + 1
        drawn[(when >= moments[last - number]) & (drawn == "train")] = part
        last -= number
    given[pool] = drawn
    absent = set(range(len(class_names))) - set(labels[given == "train"].tolist())
    if absent:
        raise DataError(
            f"with parts cut in time, train has no {noun} of "
            f"{', '.join(repr(class_names[label]) for label in sorted(absent))}",
            fix=f"give earlier {noun} of these classes, leave the classes out, or leave --time "
            "out: then parts are drawn at random",
        )
    return given


def _alone(noun: str) -> str:
    in_time = "; with --time COLUMN too it cuts recordings in time" if noun == "windows" else ""
    return (
        f"--group none splits without regard to groups, but then accuracies are those on {noun} of "
        f"groups that the net has seen{in_time}"
    )


def _check(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    wanted: list[str],
    noun: str,
    elsewhere: NDArray[np.int64],
) -> None:
    """Refuse fewer than two classes, and classes too small for the parts; `elsewhere` is given."""
    if len(class_names) < 2:
        raise DataError(
            f"the data have {len(class_names)} class ({', '.join(class_names)}), at least 2 are "
            "needed",
            fix="give a folder with one sub-folder per class, or labels with two values or more",
        )
    counts = np.bincount(labels, minlength=len(class_names))
    others = np.bincount(elsewhere, minlength=len(class_names))
    needed = ["train", *wanted]
    small = [
        f"{name!r} has {count}" + (f" beside {other} in given parts" if other else "")
        for name, count, other in zip(class_names, counts, others, strict=True)
        if count < len(needed)
    ]
    if small:
        raise DataError(
            f"too few {noun} in {len(small)} of {len(class_names)} classes: "
            f"{first_few(small)}; every class needs at least {len(needed)} to be in "
            f"each part ({', '.join(needed)})",
            fix=f"add {noun} of these classes or remove the classes{_quantities(class_names)}",
        )


def _quantities(class_names: tuple[str, ...]) -> str:
    """What to do where labels are measured values."""
    try:
        values = [float(name) for name in class_names]
    except ValueError:
        return ""
    if 2 * sum(not value.is_integer() for value in values) < len(values):
        return ""
    return "; where labels are quantities, cut their range into classes: nothing else is predicted"


def _check_groups(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    wanted: list[str],
    class_names: tuple[str, ...],
    ids: Sequence[str] | None,
    noun: str,
) -> None:
    """Refuse groups that leave a part empty or keep a class out of train whatever is drawn."""
    needed = ["train", *wanted]
    numbers, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    if len(numbers) < len(needed):
        shown = [
            f"{size} {noun}" + (f" with {ids[place]}" if ids is not None else "")
            for place, size in zip(first, sizes, strict=True)
        ]
        raise DataError(
            f"the {noun} to be split are of {_few_groups(len(numbers))} ({'; '.join(shown)}), "
            f"but {len(needed)} parts ({', '.join(needed)}) are needed, and a group stays in one",
            fix="give data of more groups, or a test part of your own (--test, or x_test in the "
            f"file); {_alone(noun)}",
        )
    classes_of = [len(np.unique(labels[groups == number])) for number in numbers[:1000]]
    groups_of = [len(np.unique(groups[labels == label])) for label in range(len(class_names))]
    if max(groups_of) == 1 and set(classes_of) == {1}:
        raise DataError(
            f"each of the {len(class_names)} classes is one group of its own, so a part with "
            f"{noun} of all classes would leave nothing for the others",
            fix=f"groups are what {noun} share besides their class, such as a person, a piece or "
            f"a recording: give several a class; {_alone(noun)}",
        )


def _few_groups(count: int) -> str:
    return "one group" if count == 1 else f"{count} groups"


def _by_class(labels: NDArray[np.int64], wanted: list[str], seed: int) -> NDArray[np.str_]:
    rng = np.random.default_rng(seed)
    drawn = np.full(len(labels), "train", dtype="<U10")
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        start = 0
        for part in wanted:
            count = max(1, round(_FRACTIONS[part] * len(members)))
            drawn[members[start : start + count]] = part
            start += count
    return drawn


def _by_group(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    wanted: list[str],
    seed: int,
    classes: int,
) -> NDArray[np.str_]:
    """Draw the parts of groups; where one lacks a class, other orders and moves are tried.

    Where groups times classes are too many for that, samples that are a group of their own are
    drawn by class.
    """
    names, places = np.unique(groups, return_inverse=True)
    is_alone = np.bincount(places)[places] == 1
    if len(names) * classes > _MAX_COUNTS and is_alone.any():
        drawn = np.empty(len(labels), "<U10")
        drawn[is_alone] = _by_class(labels[is_alone], wanted, seed)
        if not is_alone.all():
            others = ~is_alone
            drawn[others] = _by_group(labels[others], groups[others], wanted, seed, classes)
        return drawn
    counts = np.zeros((len(names), classes))
    np.add.at(counts, (places, labels), 1)
    fractions = np.array(
        [1 - sum(_FRACTIONS[part] for part in wanted), *(_FRACTIONS[p] for p in wanted)]
    )
    want = np.maximum(fractions[:, None] * counts.sum(0), 1e-9)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names))
    best = _moved(
        counts,
        assign_greedily(counts, want, order[np.argsort(-counts[order].sum(1), kind="stable")]),
        want,
    )
    has, least = (counts > 0).astype(np.int64), _least_gaps(counts, len(want))
    for _ in range(_RESTARTS):
        if _gaps(_sums(has, best, len(want))) <= least:
            break
        other = _moved(counts, assign_greedily(counts, want, rng.permutation(len(names))), want)
        best = min(best, other, key=lambda chosen: _gaps(_sums(has, chosen, len(want))))
    return np.array(["train", *wanted], dtype="<U10")[best][places]


def assign_greedily(counts: Counts, want: Counts, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Assign each group, in the given order, to the part whose class counts then fit best.

    Source: the greedy rule of scikit-learn's StratifiedGroupKFold, with unequal shares.
    """
    have = np.zeros_like(want)
    chosen = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        # Change of sum (have - want)^2 / want if the group is assigned to a part.
        change = ((counts[group] ** 2 + 2 * counts[group] * (have - want)) / want).sum(1)
        chosen[group] = change.argmin()
        have[chosen[group]] += counts[group]
    return chosen


def _moved(counts: Counts, chosen: NDArray[np.int64], want: Counts) -> NDArray[np.int64]:
    """Move single groups to parts that lack a class of theirs, while fewer classes are lacking.

    Of the moves that help as much, the one whose class counts then fit best is made.
    """
    has, chosen = (counts > 0).astype(np.int64), chosen.copy()
    present, have = _sums(has, chosen, len(want)), _sums(counts, chosen, len(want))
    gaps = _gaps(present)
    while any(gaps):
        best: tuple[int, int] | None = None
        best_key = (gaps, np.inf)
        for part, label in np.argwhere(present == 0):
            donors = np.flatnonzero((has[:, label] > 0) & (chosen != part))
            # Groups of nearly the size that is wanted leave the rest as it is.
            misfit = np.abs(counts[donors].sum(1) - want[part].sum())
            for group in donors[np.argsort(misfit, kind="stable")[:_DONORS]]:
                source = chosen[group]
                after, sums = present.copy(), have.copy()
                for array, row in ((after, has[group]), (sums, counts[group])):
                    array[source] -= row
                    array[part] += row
                key = (_gaps(after), float(((sums - want) ** 2 / want).sum()))
                if key[0] < gaps and key < best_key:
                    best, best_key = (int(group), int(part)), key
        if best is None:
            break
        group, part = best
        for array, row in ((present, has[group]), (have, counts[group])):
            array[chosen[group]] -= row
            array[part] += row
        chosen[group], gaps = part, best_key[0]
    return chosen


def _gaps(present: NDArray[np.int64]) -> tuple[int, int, int]:
    """Empty parts, classes that train lacks, and classes that the other parts lack, in all.

    `present` (parts, classes) counts the groups of a part that have a class.
    """
    lacking = present == 0
    return int(lacking.all(1).sum()), int(lacking[0].sum()), int(lacking[1:].sum())


def _least_gaps(counts: Counts, parts: int) -> tuple[int, int, int]:
    """Gaps that no draw could avoid: a class of two groups is missing in one of three parts."""
    groups_of = (counts > 0).sum(0)
    return 0, 0, int(np.maximum(parts - np.maximum(groups_of, 1), 0).sum())


def _sums(rows: NDArray[Any], chosen: NDArray[np.int64], parts: int) -> NDArray[Any]:
    sums = np.zeros((parts, rows.shape[1]), rows.dtype)
    np.add.at(sums, chosen, rows)
    return sums
