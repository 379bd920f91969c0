"""Results of the final trainings, as the artifact and the tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.artifact.provenance import FinalistResult
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.search.finals.finalists import FinalRun, planned_final_runs, trial_numbers
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import RungResult, Trials, cross_validation_of, read_trials
from lepton_automl.training.distributed import expected_speedup


def finalist_results(
    ledger: LedgerView, trials: Trials, round_number: int
) -> tuple[FinalistResult, ...]:
    """Results of the final trainings from scratch of one round, by trial."""
    planned = planned_final_runs(ledger, round_number)
    runs = [run for run in planned if run.from_scratch and not run.fold]
    compared = ledger.get(EventKind.CROSS_VALIDATION, str(round_number)) or {"finalists": []}
    by_folds = {each["number"]: each for each in compared["finalists"]}
    return tuple(
        FinalistResult(
            number=number,
            searched=trials.search_result(number).accuracy,
            searched_epochs=trials.search_result(number).epochs,
            accuracies=tuple(result.accuracy for result in results),
            epochs=results[0].epochs,
            augment=results[0].key.augment,
            cross_validation=(
                cross_validation_of(compared, by_folds[number]) if number in by_folds else None
            ),
        )
        for number in trial_numbers(runs)
        if (results := _best_variant(trials, runs, round_number, number, by_folds.get(number)))
    )


def last_finalist_results(ledger: LedgerView) -> tuple[FinalistResult, ...]:
    """`finalist_results` of the newest round; empty before a winner is selected."""
    rounds = [int(key) for key in ledger.all(EventKind.WINNER)]
    return finalist_results(ledger, read_trials(ledger), max(rounds)) if rounds else ()


@dataclass(frozen=True)
class TrainingSpeed:
    """How long the training of a net took on this machine."""

    epoch_seconds: float
    epochs: int


def winner_speed(ledger: LedgerView) -> TrainingSpeed | None:
    """Speed and length of the training whose net won the newest round.

    None before there is a winner, and where it was trained on another machine.
    """
    winners = ledger.all(EventKind.WINNER)
    if not winners:
        return None
    trials, events = read_trials(ledger), ledger.all(EventKind.RUNG)
    key = trials.best_result(winners[max(winners, key=int)]["number"]).key
    trained, ranks, before = [events[str(key)]], 1, 0
    if key.stage is Stage.FINAL:
        planned = planned_final_runs(ledger, key.round)
        run = next(run for run in planned if run.key(key.round) == key)
        ranks = run.ranks
        before = 0 if run.from_scratch else trials.search_epochs(key.trial)
    else:
        keys = (str(TrainingKey(key.trial, round=rung)) for rung in range(key.round + 1))
        trained = [events[each] for each in keys if each in events]
    if any(event.get("host") for event in trained):
        return None
    epochs = trained[-1]["epochs"] - before
    seconds = sum(event["seconds"] for event in trained) * expected_speedup(ranks)
    return TrainingSpeed(seconds / max(1, epochs), epochs)


def _best_variant(
    trials: Trials,
    runs: Sequence[FinalRun],
    round_number: int,
    number: int,
    chosen: Mapping[str, Any] | None,
) -> list[RungResult]:
    """Results on validation of a trial's usable final trainings, of its better variant.

    It is the `chosen` one where variants were compared on several folds.
    """
    by_variant: dict[tuple[float | None, bool], list[RungResult]] = {}
    for run in runs:
        if chosen is not None and (run.augment, run.flip) != (chosen["augment"], chosen["flip"]):
            continue
        result = trials.final_result(run.key(round_number)) if run.number == number else None
        if result is not None and trials.is_usable(result):
            by_variant.setdefault((run.augment, run.flip), []).append(result)
    return max(
        by_variant.values(),
        key=lambda results: sum(result.accuracy for result in results) / len(results),
        default=[],
    )
