"""Divide the training and validation parts into folds, for the cross-validation of small data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import files
from lepton_automl.data.dataset import Dataset, LabelledFiles, Part, Size
from lepton_automl.data.pixel_cache import cache_array, map_array
from lepton_automl.data.splits.split import assign_greedily
from lepton_automl.metrics.balanced import Strata
from lepton_automl.option_texts import MAX_FOLDS

SMALL, FEW_GROUPS = 3000, 20
"""Samples or groups of training and validation together below which the validation part alone is
too small to compare nets."""
_FOLDS, MOST_FOLDS = 3, 5
"""Folds without a budget, and at most: with a budget, or where each of few groups is a fold."""
_LEAST_TRAINED = 0.5
"""Least training samples of a fold, relative to the training part."""
_NO_FOLD = -1
_BLOCK_BYTES = 16 << 20
"""Bytes of pixels that are selected at a time."""
_STEM = "fold-"
"""First letters of the names of the files with the samples of a fold."""


@dataclass(frozen=True, eq=False)
class EvaluatedSamples:
    """Labels and groups of the samples that a net is evaluated on."""

    labels: NDArray[np.int64]
    """(N,)."""
    groups: NDArray[np.int64] | None
    """(N,): group of each sample; None if no two samples share a group."""
    is_balanced: bool = False
    """Whether classes have equal weight in accuracy."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> Strata:
        """Classes (N,) for balanced statistics; None if not balanced."""
        return self.labels if self.is_balanced else None

    def select(self, index: NDArray[np.int64]) -> EvaluatedSamples:
        """The samples at `index`, in that order."""
        groups = None if self.groups is None else self.groups[index]
        return dataclasses.replace(self, labels=self.labels[index], groups=groups)


@dataclass(frozen=True, eq=False)
class Folds:
    """Folds of the samples of the training part, followed by those of the validation part.

    Fold 0 is the validation part. A training for fold k uses all samples but those of fold k.
    """

    of_sample: NDArray[np.int64]
    """(N,): fold of each sample; -1 for samples that every fold but the first trains on."""
    samples: EvaluatedSamples
    """All N of them."""

    @property
    def count(self) -> int:
        """Number of folds; 1 where the training part cannot be divided."""
        return int(self.of_sample.max()) + 1

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the fold of each sample, as hexadecimal text."""
        return hashlib.sha256(self.of_sample.astype("<i8").tobytes()).hexdigest()

    def training_index(self, fold: int) -> NDArray[np.int64]:
        """Indices of the samples that the training for a fold uses, in increasing order."""
        return np.flatnonzero(self.of_sample != fold)

    def evaluated_index(self, fold: int) -> NDArray[np.int64]:
        """Indices of the samples of a fold, in increasing order."""
        return np.flatnonzero(self.of_sample == fold)

    def evaluated(self, folds: Sequence[int]) -> EvaluatedSamples:
        """The samples of some folds, one fold after the other."""
        return self.samples.select(np.concatenate([self.evaluated_index(k) for k in folds]))


def is_small(train: Part, validation: Part) -> bool:
    """Whether there are fewer than `SMALL` samples or `FEW_GROUPS` groups in both parts."""
    groups = group_count(train, validation)
    return len(train) + len(validation) < SMALL or (groups is not None and groups < FEW_GROUPS)


def folds_to_use(train: Part, validation: Part, wanted: int | None) -> int:
    """Folds that nets are compared on without a time limit, with the validation part.

    Parameters
    ----------
    train, validation : Part
        Parts of one data set.
    wanted : int, optional
        What the user has stated; None: 1 unless `is_small`, more where
        each of few groups is a fold.
    """
    if wanted is not None or not is_small(train, validation):
        return wanted or 1
    groups = group_count(train, validation)
    return MOST_FOLDS if groups is not None and groups < FEW_GROUPS else _FOLDS


def group_count(train: Part, validation: Part) -> int | None:
    """Number of groups in both parts; None where samples have none."""
    groups = _groups(train, validation)
    return None if groups is None else len(np.unique(groups))


def assign_folds(train: Part, validation: Part, seed: int) -> Folds:
    """Assign samples of the training part to folds of about the size of the validation part.

    With few groups each is a fold (leave-one-group-out); else folds are stratified by class, and
    groups, near duplicates and equal pictures are kept together. A sample has no fold where a
    training without it would lack its class or half of the samples, or where it belongs together
    with validation samples.

    Parameters
    ----------
    train, validation : Part
        Parts of one data set.
    seed : int
        Of the draw.

    Source: the folds of scikit-learn's StratifiedGroupKFold and LeaveOneGroupOut.
    """
    labels, groups = np.concatenate([train.labels, validation.labels]), _groups(train, validation)
    units = _units(train, validation, groups)
    count = len(train)
    is_free = ~np.isin(units[:count], units[count:])
    of_sample = np.full(len(labels), _NO_FOLD, np.int64)
    of_sample[count:] = 0
    free = np.flatnonzero(is_free)
    if len(free):
        wanted = round(len(labels) / len(validation)) - 1
        wanted = min(max(wanted, 1), MAX_FOLDS - 1)
        of_sample[free] = 1 + _divided(labels[free], units[free], wanted, seed)
    _keep_classes_trained(of_sample, labels, units)
    of_sample = _without_large_folds(of_sample, count)
    return Folds(of_sample, EvaluatedSamples(labels, groups, train.is_balanced))


def fold_files(
    dataset: Dataset, folds: Folds, fold: int, size: Size, cache: Path
) -> tuple[LabelledFiles, LabelledFiles]:
    """Training and evaluated samples of a fold, decoded into files in the folder `cache`.

    Raises
    ------
    DataError, MachineError
        As `Dataset.decoded_files`.
    """
    parts = [dataset.decoded_files(name, size, cache) for name in ("train", "validation")]
    if fold == 0:
        return parts[0], parts[1]
    names = "".join(part.pixels.name for part in parts)
    content = names.encode() + folds.of_sample.astype("<i8").tobytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    made = []
    for role, index in (
        ("train", folds.training_index(fold)),
        ("validation", folds.evaluated_index(fold)),
    ):
        stem = cache / f"{_STEM}{fold}-{role}-{digest}"
        pixels, labels = (stem.with_suffix(f".{kind}.npy") for kind in ("pixels", "labels"))
        shape = (len(index), *size, dataset.channels)
        make = functools.partial(_selected, parts, index)
        chosen = [folds.samples.labels[index]]
        states = (
            cache_array(pixels, shape, np.dtype(np.uint8), make),
            cache_array(labels, shape[:1], np.dtype(np.int64), functools.partial(list, chosen)),
        )
        made.append(LabelledFiles(pixels, labels, dataset.train.is_balanced, states))
    return made[0], made[1]


def delete_fold_files(cache: Path) -> None:
    """Delete what `fold_files` wrote, which is made again where it is needed."""
    for path in cache.glob(f"{_STEM}*"):
        files.remove(path)


def _selected(
    parts: Sequence[LabelledFiles], index: NDArray[np.int64]
) -> Iterator[NDArray[np.uint8]]:
    """Pictures at increasing places of the two parts behind each other, part by part."""
    start = 0
    for part in parts:
        pixels = map_array(part.pixels, state=part.states[0])
        own = index[(index >= start) & (index < start + len(pixels))] - start
        rows = max(1, _BLOCK_BYTES // max(1, pixels[:1].nbytes))
        for first in range(0, len(own), rows):
            yield pixels[own[first : first + rows]]
        start += len(pixels)


def _groups(train: Part, validation: Part) -> NDArray[np.int64] | None:
    """Group of each sample of both parts; where a part has none, each of its samples is alone."""
    if train.groups is None and validation.groups is None:
        return None
    known = [part.groups for part in (train, validation) if part.groups is not None]
    free = 1 + max(int(groups.max()) for groups in known)
    made = []
    for part in (train, validation):
        alone = free + np.arange(len(part))
        free += len(part)
        made.append(alone if part.groups is None else part.groups)
    return np.concatenate(made)


def _units(train: Part, validation: Part, groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Samples that stay together have one number: of a group, near duplicates, equal pictures."""
    digests = {digest: n for n, digest in enumerate((*train.digests, *validation.digests))}
    keys = [np.array([digests[d] for d in (*train.digests, *validation.digests)])]
    if train.near_duplicates is not None and validation.near_duplicates is not None:
        keys.append(np.concatenate([train.near_duplicates, validation.near_duplicates]))
    if groups is not None:
        keys.append(groups)
    rows, columns, nodes = list[NDArray[np.int64]](), list[NDArray[np.int64]](), len(keys[0])
    for key in keys:
        names, places = np.unique(key, return_inverse=True)
        rows.append(np.arange(len(key)))
        columns.append(nodes + places)
        nodes += len(names)
    from scipy.sparse import coo_matrix  # Slow to import; workers do without.
    from scipy.sparse.csgraph import connected_components

    edges = coo_matrix(
        (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))),
        (nodes, nodes),
    )
    found = connected_components(edges, directed=False)[1]
    units: NDArray[np.int64] = found[: len(keys[0])].astype(np.int64)
    return units


def _divided(
    labels: NDArray[np.int64], units: NDArray[np.int64], wanted: int, seed: int
) -> NDArray[np.int64]:
    """Fold of each sample, from 0: large units one by one, then single samples class by class."""
    draws = np.random.default_rng(seed)
    names, places, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(names) < MAX_FOLDS:
        return draws.permutation(len(names))[places].astype(np.int64)
    folds = np.full(len(labels), _NO_FOLD, np.int64)
    totals = np.zeros((wanted, int(labels.max()) + 1))
    members = np.flatnonzero(sizes[places] > 1)
    if len(members):
        _, large = np.unique(places[members], return_inverse=True)
        counts = np.zeros((int(large.max()) + 1, totals.shape[1]))
        np.add.at(counts, (large, labels[members]), 1)
        share = np.maximum(np.bincount(labels, minlength=totals.shape[1]) / wanted, 1e-9)
        order = draws.permutation(len(counts))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]
        folds[members] = assign_greedily(counts, np.tile(share, (wanted, 1)), order)[large]
        np.add.at(totals, (folds[members], labels[members]), 1)
    for label in np.unique(labels):
        fewest = [(totals[k, label], totals[k].sum(), k) for k in range(wanted)]
        heapq.heapify(fewest)
        for place in draws.permutation(np.flatnonzero((labels == label) & (folds == _NO_FOLD))):
            of_class, of_all, fold = fewest[0]
            heapq.heapreplace(fewest, (of_class + 1, of_all + 1, fold))
            folds[place] = fold
            totals[fold, label] += 1
    return folds


def _keep_classes_trained(
    of_sample: NDArray[np.int64], labels: NDArray[np.int64], units: NDArray[np.int64]
) -> None:
    """Take a unit out of each fold that has all samples of a class."""
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        fold = of_sample[own[0]]
        if fold > 0 and (of_sample[own] == fold).all():
            names, sizes = np.unique(units[own], return_counts=True)
            of_sample[units == names[sizes.argmin()]] = _NO_FOLD


def _without_large_folds(of_sample: NDArray[np.int64], train: int) -> NDArray[np.int64]:
    """Leave out folds that are empty or leave too few samples to train on; renumbered from 0."""
    numbers = [0]
    for fold in range(1, int(of_sample.max()) + 1):
        size = int((of_sample == fold).sum())
        if size and len(of_sample) - size >= _LEAST_TRAINED * train:
            numbers.append(fold)
    made = np.full(len(of_sample), _NO_FOLD, np.int64)
    for new, old in enumerate(numbers):
        made[of_sample == old] = new
    return made
