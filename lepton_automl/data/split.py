"""Split samples into train, validation and test: stratified, seeded, groups kept together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_automl.data.sources import PARTS
from lepton_automl.errors import DataError

_FRACTIONS = {"validation": 0.15, "test": 0.15}
"""Part -> fraction of the samples it gets where the data do not contain it."""


def split(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    parts: NDArray[np.str_] | None,
    groups: NDArray[np.int64] | None,
    seed: int,
) -> NDArray[np.str_]:
    """Assign each sample (N,) to a part: given parts stay, missing ones are drawn from the rest.

    Without given parts: 70 % train, 15 % validation, 15 % test. With a test part: 15 % of the rest
    is validation. Every class gets at least one sample in each drawn part and in train.

    Raises
    ------
    DataError
        If a class has too few samples for that, or there are fewer than two classes.
    """
    given = np.full(len(labels), "", dtype="<U10") if parts is None else parts.astype("<U10")
    given[given == "train"] = ""
    pool = np.flatnonzero(given == "")
    wanted = [part for part in PARTS[1:] if not (given == part).any()]
    _check(labels[pool], class_names, wanted)
    if groups is None:
        drawn = _by_class(labels[pool], wanted, seed)
    else:
        drawn = _by_group(labels[pool], groups[pool], wanted, seed)
    given[pool] = drawn
    absent = set(range(len(class_names))) - set(labels[given == "train"].tolist())
    if absent:
        raise DataError(
            f"with groups kept together, train has no picture of "
            f"{', '.join(repr(class_names[label]) for label in sorted(absent))}",
            fix="try another --seed, give data with a split, or add groups with these classes",
        )
    return given


def _check(labels: NDArray[np.int64], class_names: tuple[str, ...], wanted: list[str]) -> None:
    if len(class_names) < 2:
        raise DataError(
            f"the data have {len(class_names)} class ({', '.join(class_names)}), at least 2 are "
            "needed",
            fix="give a folder with one sub-folder per class, or labels with two values or more",
        )
    counts = np.bincount(labels, minlength=len(class_names))
    needed = ["train", *wanted]
    small = [f"{n!r} has {c}" for n, c in zip(class_names, counts, strict=True) if c < len(needed)]
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise DataError(
            f"too few pictures in {len(small)} of {len(class_names)} classes: "
            f"{', '.join(small[:5])}{more}; every class needs at least {len(needed)} to be in "
            f"each part ({', '.join(needed)})",
            fix="add pictures of these classes or remove the classes",
        )


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
    labels: NDArray[np.int64], groups: NDArray[np.int64], wanted: list[str], seed: int
) -> NDArray[np.str_]:
    """Assign each group, largest first, to the part whose class counts then fit best.

    Source: the greedy rule of scikit-learn's StratifiedGroupKFold, with unequal shares.
    """
    names, places = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(counts, (places, labels), 1)
    fractions = np.array(
        [1 - sum(_FRACTIONS[part] for part in wanted), *(_FRACTIONS[p] for p in wanted)]
    )
    want = np.maximum(fractions[:, None] * counts.sum(0), 1e-9)
    have = np.zeros_like(want)
    chosen = np.zeros(len(names), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(names))
    for group in order[np.argsort(-counts[order].sum(1), kind="stable")]:
        # Change of sum (have - want)^2 / want if the group is assigned to a part.
        change = ((counts[group] ** 2 + 2 * counts[group] * (have - want)) / want).sum(1)
        chosen[group] = change.argmin()
        have[chosen[group]] += counts[group]
    return np.array(["train", *wanted], dtype="<U10")[chosen][places]
