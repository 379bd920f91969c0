"""Mirror test: whether a net trained without flips still tells mirrored pictures apart by class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Certainty
from lepton_automl.metrics import balanced, bootstrap
from lepton_automl.metrics.balanced import Groups, Strata
from lepton_automl.metrics.intervals import ONE_SIDED_LEVEL, wilson_interval
from lepton_automl.metrics.paired import AccuracyDrop, paired_drop

_LEVEL = 0.05
"""Probability of finding a pair of classes that mirroring exchanges where there is none."""
_TOLD_APART = 0.6
"""Two classes count as told apart where the lower bound of their AUC is at least this."""
_KEPT = 0.75
"""Least share of a pair's AUC above 0.5 that remains on mirrored pictures."""
_MAX_LOSS, _SMALL_LOSS = 0.1, 0.02
"""Accuracy that mirroring may cost at most, and that is small even where it is significant; shares
of the accuracy above chance."""
Logits = NDArray[np.floating]


class FlipVerdict(StrEnum):
    """What the test says about random flips."""

    OFF = "off"
    """Mirroring changes the class."""
    ON = "on"
    """Mirroring changes nothing that the net has learnt, and it has learnt enough to tell."""
    OPEN = "open"
    """Not decided."""


@dataclass(frozen=True)
class MirrorTest:
    """Result of the test."""

    verdict: FlipVerdict
    reason: str
    """Why, in words with figures."""
    certainty: Certainty = "measured"
    """`assumed` where `OFF` is the safe side of a loss that may be chance."""
    prefers_flips: bool = False
    """With `OPEN`: every pair of classes stays told apart, only the mean accuracy is in doubt."""


def mirror_test(
    plain: Logits,
    mirrored: Logits,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    groups: Groups = None,
    strata: Strata = None,
) -> MirrorTest:
    """Compare a net's predictions for pictures and for their mirror images, class by class.

    For two classes, the AUC is the probability that a picture of the first has the larger
    difference of their two logits. If mirroring exchanges them, it is as far below 0.5 on mirrored
    pictures as it is above on plain ones; a pair where it is significantly below (rank-sum test,
    Bonferroni over all pairs) forbids flips, however rare the classes; so does a loss of a tenth of
    the accuracy above chance. Flips are allowed if every pair is told apart, and stays so when
    mirrored, and the accuracy stays the same. A net that has learnt too little, and too few
    pictures of a class, leave it open.

    Parameters
    ----------
    plain, mirrored : ndarray
        (N, classes) logits of a net trained without flips, of the same validation pictures.
    labels : ndarray
        (N,): class of each.
    class_names : sequence of str
        One for each class.
    groups, strata : ndarray, optional
        (N,), as in `paired_drop`.

    Source: Mann and Whitney 1947, Annals of Mathematical Statistics 18, 50; Hand and Till 2001,
    Machine Learning 45, 171 (AUC of each pair of classes).
    """
    right, right_mirrored = plain.argmax(1) == labels, mirrored.argmax(1) == labels
    drop = paired_drop(right, right_mirrored, groups, strata)
    learnt = balanced.balanced_mean(right, strata) - 1 / len(class_names)
    fraction = 1.0
    if groups is not None:
        change = right.astype(float) - right_mirrored
        fraction = bootstrap.cluster_effective_fraction(change, groups, ONE_SIDED_LEVEL)
    counts = np.bincount(labels, minlength=len(class_names)).astype(np.float64) * fraction
    pairs = list(_confused_pairs(plain, mirrored, labels, counts))
    exchanged = _most_exchanged(pairs, len(class_names))
    if exchanged is not None:
        both = " and ".join(repr(class_names[label]) for label in exchanged.labels)
        return MirrorTest(
            FlipVerdict.OFF,
            f"mirroring exchanges the classes {both}: of two pictures, one of each, a net trained "
            f"without flips tells {exchanged.plain:.0%} apart as they are, {exchanged.mirrored:.0%}"
            " mirrored",
        )
    recognized = _recognized_text(right, right_mirrored, strata)
    knows = wilson_interval(balanced.balanced_total(right, strata), len(right), ONE_SIDED_LEVEL)
    if knows[0] > 1 / len(class_names) and drop.points / 100 > _MAX_LOSS * learnt:
        # Flips have little to gain: the pictures to be classified have a left and a right.
        reason = f"mirrored pictures are recognized less well: {recognized}"
        return MirrorTest(FlipVerdict.OFF, reason, "measured" if drop.lower > 0 else "assumed")
    unknown = _why_open(pairs, counts, class_names)
    reason = unknown or _why_lossy(drop, learnt)
    if reason:
        return MirrorTest(
            FlipVerdict.OPEN, f"{reason} ({recognized})", "assumed", prefers_flips=not unknown
        )
    return MirrorTest(FlipVerdict.ON, recognized)


@dataclass(frozen=True)
class _Pair:
    """AUC of two classes on plain and on mirrored pictures."""

    labels: tuple[int, int]
    counts: tuple[float, float]
    """Effective number of pictures of each."""
    plain: float
    mirrored: float

    @property
    def is_told_apart(self) -> bool:
        """Whether the net tells plain pictures of the two apart."""
        fewest = min(self.counts)
        return wilson_interval(self.plain * fewest, fewest, ONE_SIDED_LEVEL)[0] >= _TOLD_APART

    @property
    def is_kept(self) -> bool:
        """Whether it tells mirrored ones apart about as well."""
        return self.mirrored - 0.5 >= _KEPT * (self.plain - 0.5)

    @property
    def exchange_score(self) -> float:
        """Standard score of a mirrored AUC below 0.5; 0 where plain pictures are mixed up too."""
        first, second = self.counts
        deviation = math.sqrt((first + second + 1) / (12 * first * second))
        chance = NormalDist().inv_cdf(1 - _LEVEL) * deviation
        return (0.5 - self.mirrored) / deviation if self.plain > 0.5 + chance else 0.0


def _confused_pairs(
    plain: Logits, mirrored: Logits, labels: NDArray[np.int64], counts: NDArray[np.float64]
) -> Iterator[_Pair]:
    """Pairs of classes of which one was taken for the other, plain or mirrored.

    All others are told apart, plain and mirrored, by the largest logit already.
    """
    found = {
        (min(a, b), max(a, b))
        for predicted in (plain.argmax(1), mirrored.argmax(1))
        for a, b in zip(labels.tolist(), predicted.tolist(), strict=True)
        if a != b and counts[a] > 0 and counts[b] > 0
    }
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
    for first, second in sorted(found):
        auc = (
            _auc(*((x[members[one]][:, first] - x[members[one]][:, second]) for one in pair))
            for x in (plain, mirrored)
            for pair in [(first, second)]
        )
        yield _Pair((first, second), (counts[first], counts[second]), *auc)


def _auc(positive: Logits, negative: Logits) -> float:
    """Share of pairs in which the positive one is larger; ties count half."""
    ascending = np.sort(negative)
    smaller = np.searchsorted(ascending, positive, "left").sum()
    smaller_or_equal = np.searchsorted(ascending, positive, "right").sum()
    return float((smaller + smaller_or_equal) / 2 / (len(positive) * len(negative)))


def _most_exchanged(pairs: Sequence[_Pair], classes: int) -> _Pair | None:
    """The pair that mirroring exchanges most clearly; None if none is significant."""
    count = max(1, classes * (classes - 1) // 2)
    worst = max(pairs, key=lambda pair: pair.exchange_score, default=None)
    if worst is None or worst.exchange_score <= NormalDist().inv_cdf(1 - _LEVEL / count):
        return None
    return worst


def _why_open(
    pairs: Sequence[_Pair], counts: NDArray[np.float64], class_names: Sequence[str]
) -> str:
    """The class or the pair that cannot be judged; empty if there is none."""
    rarest = int(counts.argmin())
    if wilson_interval(counts[rarest], counts[rarest], ONE_SIDED_LEVEL)[0] < _TOLD_APART:
        return f"too few independent validation pictures of class {class_names[rarest]!r} to tell"
    unknown = [pair for pair in pairs if not pair.is_told_apart]
    changed = [pair for pair in pairs if not pair.is_kept]
    if unknown:
        worst, why = min(unknown, key=lambda pair: pair.plain), "are not told apart yet"
    elif changed:
        worst, why = min(changed, key=lambda pair: pair.mirrored), "are mixed up when mirrored"
    else:
        return ""
    return "the classes {!r} and {!r} ".format(*(class_names[k] for k in worst.labels)) + why


def _why_lossy(drop: AccuracyDrop, learnt: float) -> str:
    """Why the accuracy on mirrored pictures does not allow flips; empty where it does."""
    if learnt <= 0 or drop.upper / 100 > _MAX_LOSS * learnt:
        return "too little is known of mirrored pictures"
    if drop.lower > 0 and drop.points / 100 > _SMALL_LOSS * learnt:
        return "mirrored pictures are recognized less well"
    return ""


def _recognized_text(plain: NDArray[np.bool_], mirrored: NDArray[np.bool_], strata: Strata) -> str:
    share, mirrored_share = (balanced.balanced_mean(x, strata) for x in (plain, mirrored))
    return (
        f"a net trained without flips recognizes {mirrored_share:.1%} of {len(plain)} mirrored "
        f"validation pictures, {share:.1%} of them as they are"
    )
