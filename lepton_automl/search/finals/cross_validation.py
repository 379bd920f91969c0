"""Compare finalists on several folds of the training and validation parts (Stone 1974)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.data.folds import (
    FEW_GROUPS,
    MOST_FOLDS,
    SMALL,
    EvaluatedSamples,
    folds_to_use,
    group_count,
)
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.metrics.intervals import accuracy_interval
from lepton_automl.option_texts import fold_count
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.trials import Trials


class Variant(NamedTuple):
    """A trial with the changes to its recipe that are compared."""

    number: int
    """Of the trial."""
    augment: float | None
    flip: bool


@dataclass(frozen=True, eq=False)
class FoldResults:
    """Results of final trainings on the folds that all variants have."""

    folds: tuple[int, ...]
    """At least the first, the validation part."""
    samples: EvaluatedSamples
    """The N samples of these folds, one fold after the other."""
    correct: Mapping[Variant, NDArray[np.float64]]
    """(N,) of each variant: share of its trainings, 0 to 1, that classify a sample correctly,
    where they are not trained on it."""

    def accuracy(self, variant: Variant) -> float:
        """Accuracy, 0 to 1; balanced accuracy where classes have equal weight."""
        return balanced_mean(self.correct[variant], self.samples.strata)

    def best(self, number: int) -> Variant | None:
        """The most accurate variant of a trial, the first of equals; None without a training."""
        own = [variant for variant in self.correct if variant.number == number]
        return max(own, key=self.accuracy, default=None)

    def to_event(self) -> dict[str, Any]:
        """Value of the `EventKind.CROSS_VALIDATION` event: the best variant of each trial."""
        finalists = []
        for number in dict.fromkeys(variant.number for variant in self.correct):
            variant = self.best(number)
            assert variant is not None
            low, high = accuracy_interval(
                self.correct[variant], self.samples.groups, self.samples.strata
            )
            accuracy = {"accuracy": self.accuracy(variant), "low": low, "high": high}
            finalists.append(variant._asdict() | accuracy)
        return {
            "folds": list(self.folds),
            "samples": len(self.samples),
            "finalists": finalists,
        }


def fold_results(
    request: SearchRequest,
    trials: Trials,
    runs: Sequence[FinalRun],
    round_number: int,
    *,
    by_folds: bool = True,
) -> FoldResults:
    """The results of the final trainings of a round.

    A variant without a usable training on the validation part is left out, and so is a fold that
    one of the others lacks.

    Parameters
    ----------
    request : SearchRequest
        With the data.
    trials : Trials
        The results.
    runs : sequence of FinalRun
        Final trainings that are compared.
    round_number : int
        Their round.
    by_folds : bool
        Whether folds other than the validation part count.
    """
    found: dict[Variant, dict[int, list[NDArray[np.bool_]]]] = {}
    for run in runs:
        result = trials.final_result(run.key(round_number))
        if result is not None and trials.is_usable(result) and (by_folds or not run.fold):
            of_fold = found.setdefault(Variant(run.number, run.augment, run.flip), {})
            of_fold.setdefault(run.fold, []).append(result.correct)
    found = {variant: of_fold for variant, of_fold in found.items() if 0 in of_fold}
    planned = sorted({run.fold for run in runs})
    folds = tuple(k for k in planned if all(k in of_fold for of_fold in found.values()))
    correct = {
        variant: np.concatenate([np.mean(of_fold[k], axis=0) for k in folds])
        for variant, of_fold in found.items()
    }
    return FoldResults(folds, _samples(request, folds), correct)


def _samples(request: SearchRequest, folds: tuple[int, ...]) -> EvaluatedSamples:
    if any(folds):
        return request.folds.evaluated(folds)
    part = request.dataset.validation
    return EvaluatedSamples(part.labels, part.groups, part.is_balanced)


def training_shares(request: SearchRequest, seconds: float) -> list[float]:
    """Size of the training of each fold that may be used, relative to the training part.

    Parameters
    ----------
    request : SearchRequest
        Data and `config.folds`.
    seconds : float
        Time for all final trainings; infinite without a budget.

    Returns
    -------
    list of float
        The first is 1; it is the only one where the validation part alone is used.
    """
    data, wanted = request.dataset, fold_count(request.config.folds)
    most = folds_to_use(data.train, data.validation, wanted)
    if most == 1:
        return [1.0]
    if wanted is None and seconds < math.inf:
        most = MOST_FOLDS
    count = min(most, request.folds.count)
    sizes = [len(request.folds.training_index(fold)) for fold in range(1, count)]
    return [1.0, *(size / len(data.train) for size in sizes)]


def decision(request: SearchRequest, event: Mapping[str, Any]) -> Decision | None:
    """The decision to compare finalists on several folds; None where the user made it."""
    if fold_count(request.config.folds) is not None:
        return None
    train, validation = request.dataset.train, request.dataset.validation
    count, groups = len(train) + len(validation), group_count(train, validation)
    evidence = f"{count:,} samples for training and validation"
    evidence += (
        f" (below {SMALL:,})" if count < SMALL else f" in {groups} groups (below {FEW_GROUPS})"
    )
    return Decision(
        "comparison of finalists",
        f"by cross-validation on {len(event['folds'])} folds with {event['samples']:,} samples",
        evidence,
        "inferred",
        "--folds off",
    )
