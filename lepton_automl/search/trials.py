"""Trials, the results of their trainings, and the plan of a search, as the ledger holds them."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact.provenance import CrossValidation
from lepton_automl.core.field_types import check_finite, check_types
from lepton_automl.cost.cost import Cost
from lepton_automl.data.dataset import Part
from lepton_automl.data.folds import EvaluatedSamples
from lepton_automl.metrics import balanced
from lepton_automl.metrics.balanced import Strata
from lepton_automl.metrics.intervals import accuracy_interval, wilson_interval
from lepton_automl.metrics.paired import is_significantly_below
from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.search.objectives import Objective
from lepton_automl.search.rungs import ETA, RungEntries, RungEntry
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.time_plan import FINAL_SHARES
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.workers.task import TaskResult, check_schedule_changes, unpack
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.schedule import ScheduleChange

SEARCH_PLAN = "search"
"""Key of the `EventKind.PLAN` event with the plan of a search; later ones add `-1` and so on."""
CLASSES = "classes"
"""Key of the `EventKind.PLAN` event with the class of each validation sample."""


@dataclass(frozen=True)
class Plan:
    """Epochs and time shares of a search; recorded once, so that a resumed search keeps them."""

    epochs: int | None
    """Epochs of a trial after its last rung; None: those of each recipe."""
    seconds_per_work: float
    """Measured seconds for one unit of `work_of`; 0 without a budget."""
    begun: float
    """Seconds that commands had worked on the run when the plan was made."""
    final_share: float = FINAL_SHARES[0]
    """Share of the remaining search time that is kept for the final trainings."""
    epoch_seconds: float = 0.0
    """Seconds for an epoch, the mean of the nets that are trained first, from the measured speed; 0
    without a budget."""
    own_epochs: int = 0
    """Epochs in the recipe of the first trial."""
    whole_epochs: int = 0
    """Typical epochs of a complete training, from which the time of later stages is estimated."""
    first: tuple[int, ...] | None = None
    """Which of the known-good points are trained first, as indices; None: all of them."""
    budget_seconds: float = 0.0
    """Budget that it was made for; 0 without one."""
    first_trial: int = 0
    """Number of the first trial that it is for; those before it follow an earlier plan."""

    @property
    def epochs_or_own(self) -> int:
        """Epochs of a trial after its last rung; those of the first recipe where none are set."""
        return self.epochs or self.own_epochs

    @property
    def is_scarce(self) -> bool:
        """Whether trials are trained so briefly that accuracies hardly predict final ones.

        Then the finalists are the candidates that the search space names as known-good.
        """
        return self.epochs is not None and ETA * self.epochs <= self.own_epochs

    def to_event(self) -> dict[str, Any]:
        """Value of the ledger event."""
        first = None if self.first is None else list(self.first)
        return {**vars(self), "first": first}

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Self:
        """Read what `to_event` wrote."""
        first = event.get("first")
        plan = cls(**{**event, "first": None if first is None else tuple(first)})
        check_types(plan)
        return plan


@dataclass(frozen=True, eq=False)
class RejectedProposal:
    """A sampled point of the space that was not trained because it violates a cost limit."""

    params: dict[str, Any]
    distributions: dict[str, str]
    violation: dict[str, float]
    """Limit -> cost / limit - 1: 0.5 for one and a half times the limit."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A point of the space that satisfies the cost limits."""

    number: int
    params: dict[str, Any]
    distributions: dict[str, str]
    """Optuna's description of each parameter, as JSON."""
    arch_json: str
    recipe_json: str
    cost: Cost
    rejected: tuple[RejectedProposal, ...] = ()
    """Points that were sampled for this trial before, and rejected."""

    @functools.cached_property
    def arch(self) -> Arch:
        """The architecture; parsed on first use, as a resumed search rebuilds thousands."""
        return Arch.from_json(self.arch_json)

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The training settings."""
        return Recipe.from_json(self.recipe_json)

    def to_event(self) -> dict[str, Any]:
        """Value of the trial's ledger event."""
        return {
            "number": self.number,
            "params": self.params,
            "distributions": self.distributions,
            "arch": self.arch_json,
            "recipe": self.recipe_json,
            "cost": dataclasses.asdict(self.cost),
            "rejected": [
                {"params": r.params, "distributions": r.distributions, "violation": r.violation}
                for r in self.rejected
            ],
        }

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Self:
        """Read what `to_event` wrote; raises where a field is missing or of another type."""
        cost = Cost(**event["cost"])
        for item in dataclasses.fields(cost):
            value = getattr(cost, item.name)
            if item.name != "latency_basis" and value is not None:
                check_finite(value, item.name)
        check_finite(event["number"], "number", int)
        for name, kind in (("params", dict), ("arch", str), ("recipe", str)):
            if not isinstance(event[name], kind):
                raise TypeError(f"{name} is {event[name]!r:.60}, not {kind.__name__}")
        return cls(
            event["number"],
            event["params"],
            event["distributions"],
            event["arch"],
            event["recipe"],
            cost,
            tuple(
                RejectedProposal(r["params"], r["distributions"], r["violation"])
                for r in event["rejected"]
            ),
        )


@dataclass(frozen=True, eq=False)
class RungResult:
    """Result of a training: a rung of the search, or a final training."""

    key: TrainingKey
    epochs: int
    """Epochs of the trial after this training."""
    packed_correct: str
    """Which validation samples, or samples of its fold, are classified correctly, as `task.pack`
    writes them."""
    failed: str = ""
    """Why the training failed; empty where it did not."""
    micro_batches: int = 1
    """Micro-batches that a batch was split into; more than 1 after the memory ran out."""
    balanced: Mapping[str, float] | None = None
    """`accuracy`, `low`, `high` and `samples` where classes have equal weight."""
    planned_epochs: int = 0
    """Epochs that were planned, where the training was shortened to end in time; else 0."""
    schedule_changes: tuple[ScheduleChange, ...] = ()
    """How it was shortened."""

    @functools.cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) validation samples, or samples of its fold; empty for a training that failed."""
        return np.zeros(0, np.bool_) if self.failed else unpack(self.packed_correct)

    @functools.cached_property
    def accuracy(self) -> float:
        """Accuracy on validation, balanced where classes have equal weight; 0 after a failure."""
        if self.balanced is not None:
            return self.balanced["accuracy"]
        return 0.0 if self.failed else float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy."""
        if self.balanced is not None:
            return self.balanced["low"], self.balanced["high"]
        return wilson_interval(int(self.correct.sum()), len(self.correct))

    @property
    def samples(self) -> int:
        """Effective number of independent validation samples; 0 for a training that failed."""
        return len(self.correct) if self.balanced is None else int(self.balanced["samples"])

    @classmethod
    def from_event(cls, key: TrainingKey, event: Mapping[str, Any]) -> Self:
        """Read the value of a `EventKind.RUNG` event; raises as `Trial.from_event`."""
        check_finite(event["epochs"], "epochs", int)
        for name, value in (event.get("balanced") or {}).items():
            check_finite(value, name)
        check_finite(event.get("planned_epochs", 0), "planned_epochs", int)
        changes = event.get("schedule_changes", ())
        check_schedule_changes(changes)
        if not isinstance(event["failed"], str) or not isinstance(event["correct"], str):
            raise TypeError("failed or correct is not text")
        return cls(
            key,
            event["epochs"],
            event["correct"],
            event["failed"],
            event.get("micro_batches", 1),
            event.get("balanced"),
            event.get("planned_epochs", 0),
            tuple((batches, size) for batches, size in changes),
        )


@dataclass(frozen=True)
class CrossValidated:
    """The variant of a trial that cross-validation chose, and its accuracy."""

    round: int
    """Round of final trainings."""
    augment: float | None
    flip: bool
    accuracy: CrossValidation

    def is_of(self, key: TrainingKey) -> bool:
        """Whether a final training is of this variant and round."""
        return (key.round, key.augment, key.flip) == (self.round, self.augment, self.flip)


class Trials(Mapping[int, Trial]):
    """All trials by number, with the results of their trainings."""

    def __init__(self) -> None:
        self._trials: dict[int, Trial] = {}
        self.results: dict[int, list[RungResult]] = {}
        """Of the rungs of each trial, in order."""
        self.finals: dict[int, list[RungResult]] = {}
        """Of the final trainings of each trial on the validation part, failed ones included."""
        self.fold_results: dict[TrainingKey, RungResult] = {}
        """Of the final trainings on other folds, failed ones included."""
        self.cross_validated: dict[int, CrossValidated] = {}
        """By trial, from the last round in which it was compared on several folds."""
        self.plan: Plan | None = None
        self.earlier_plans: list[Plan] = []
        """Plans of smaller budgets, in order."""
        self.strata: Strata = None
        self.rejected_flips: set[str] = set()
        """Rounds of final trainings, as text, in which those with flips are not used."""
        self.uses_flips = False
        """Whether the last flip check chose random flips for complete trainings."""
        self._trained: list[int] = []
        self._unstarted: dict[int, None] = {}
        self._finished: dict[int, list[int]] = {}
        """Trials that finished each rung or failed at it, as they came in."""
        self._beyond: dict[int, set[int]] = {}
        self._entries: dict[tuple[object, ...], tuple[RungEntries, int]] = {}
        """Entries of a rung and how many of `_finished` they were made from."""

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def add(self, trial: Trial) -> None:
        """Add a trial that has no results yet."""
        self._trials[trial.number] = trial
        self.results[trial.number] = []
        self._unstarted[trial.number] = None

    def replace(self, trial: Trial) -> None:
        """Replace the trial of the same number; its results stay."""
        self._trials[trial.number] = trial

    def add_result(self, result: RungResult) -> None:
        """Add the result of a trial's next rung or of one of its final trainings."""
        number = result.key.trial
        if result.key.fold:
            self.fold_results[result.key] = result
        elif result.key.stage is Stage.FINAL:
            self.finals.setdefault(number, []).append(result)
        else:
            self.results[number].append(result)
            rung = len(self.results[number]) - 1
            self._finished.setdefault(rung, []).append(number)
            if rung:
                self._beyond.setdefault(rung - 1, set()).add(number)
            else:
                del self._unstarted[number]
                if not result.failed:
                    bisect.insort(self._trained, number)

    def add_cross_validation(self, round_number: int, event: Mapping[str, Any]) -> None:
        """Add the value of a `EventKind.CROSS_VALIDATION` event."""
        for each in event["finalists"]:
            self.cross_validated[each["number"]] = CrossValidated(
                round_number, each["augment"], each["flip"], cross_validation_of(event, each)
            )

    def epochs_of(self, number: int) -> int:
        """Epochs of a trial after its last rung: those of its plan, or of its recipe."""
        plan = self.plan
        if plan is not None and number < plan.first_trial:
            plan = [each for each in self.earlier_plans if each.first_trial <= number][-1]
        planned = plan.epochs if plan else None
        return planned or self[number].recipe.epochs

    def follow(self, plan: Plan) -> None:
        """Follow `plan` from its first trial on."""
        if self.plan is not None:
            self.earlier_plans.append(self.plan)
        self.plan = plan

    def trained(self) -> list[int]:
        """Trials that finished a rung and did not fail at the first."""
        return list(self._trained)

    def unstarted(self) -> list[int]:
        """Trials that have not finished any rung."""
        return list(self._unstarted)

    def complete_recipe(self, number: int) -> Recipe:
        """The recipe of a trial for a complete training: with flips where these were chosen."""
        recipe = self[number].recipe
        return dataclasses.replace(recipe, flip=recipe.flip or self.uses_flips)

    def best_result(self, number: int) -> RungResult:
        """The most accurate of its final trainings, the newest of equal ones, or its last rung.

        The trial was selected for its accuracy in the search, which is biased upwards by that, so
        the rung counts only where it is significantly better or there is no final training. Where
        cross-validation chose a variant of the trial, its final training on the training part or a
        later one counts. The result is always that on the validation part.
        """
        finals, chosen = self.final_results(number), self.cross_validated.get(number)
        own = [r for r in finals if chosen and (r.key.round > chosen.round or chosen.is_of(r.key))]
        final = max(reversed(own or finals), key=lambda result: result.accuracy, default=None)
        search = self.search_result(number)
        if final is None or own:
            return final or search
        is_worse = is_significantly_below(final.correct, search.correct, strata=self.strata)
        return search if is_worse else final

    def search_result(self, number: int) -> RungResult:
        """The last rung that did not fail."""
        return [result for result in self.results[number] if not result.failed][-1]

    def final_results(self, number: int) -> list[RungResult]:
        """The usable final trainings of a trial on the validation part."""
        return [result for result in self.finals.get(number, []) if self.is_usable(result)]

    def is_usable(self, result: RungResult | None) -> bool:
        """Whether a final training did not fail, and is not one with flips that were rejected."""
        if result is None or result.failed:
            return False
        return not (result.key.flip and str(result.key.round) in self.rejected_flips)

    def final_result(self, key: TrainingKey) -> RungResult | None:
        """The result of one final training, failed or not; None before it has ended."""
        if key.fold:
            return self.fold_results.get(key)
        return next((r for r in self.finals.get(key.trial, []) if r.key == key), None)

    def search_epochs(self, number: int) -> int:
        """Epochs of a trial after the rungs it finished."""
        return max((r.epochs for r in self.results[number] if not r.failed), default=0)

    def entries(self, rung: int, costs: list[Objective]) -> RungEntries:
        """All trials that finished `rung`; more are added as they come in."""
        kind = (rung, *map(type, costs))
        found, count = self._entries.get(kind, (RungEntries(), 0))
        finished = self._finished.get(rung, [])
        for number in finished[count:]:
            result = self.results[number][rung]
            if not result.failed:
                values = self.cost_values(number, costs)
                found.add(RungEntry(number, result.accuracy, values, result.samples))
        self._entries[kind] = found, len(finished)
        return found

    def finished(self, rung: int) -> int:
        """Number of trials that finished `rung` or failed at it."""
        return len(self._finished.get(rung, []))

    def beyond(self, rung: int) -> Set[int]:
        """Trials that have finished the rung after `rung` or failed at it."""
        return self._beyond.get(rung, set())

    def cost_values(self, number: int, objectives: list[Objective]) -> tuple[float, ...]:
        """Values of objectives that need no training; lower is better."""
        cost = self[number].cost
        return tuple(o.value(None, cost) * o.sign for o in objectives)


def read_plans(ledger: LedgerView) -> list[Plan]:
    """The plans of a search, in order; a larger budget may add another one."""
    events = ledger.all(EventKind.PLAN)
    return [Plan.from_event(events[key]) for key in events if key.split("-")[0] == SEARCH_PLAN]


def record_plan(ledger: Ledger, plan: Plan) -> None:
    """Record the next plan of a search."""
    number = len(read_plans(ledger))
    key = f"{SEARCH_PLAN}-{number}" if number else SEARCH_PLAN
    ledger.record(EventKind.PLAN, key, plan.to_event())


def read_trials(ledger: LedgerView) -> Trials:
    """Read all trials and results of a ledger."""
    trials = Trials()
    for plan in read_plans(ledger):
        trials.follow(plan)
    classes = ledger.get(EventKind.PLAN, CLASSES)
    trials.strata = np.array(classes["validation"], np.int64) if classes else None
    chosen = ledger.all(EventKind.FLIP_CHOICE)
    trials.rejected_flips = {key for key, event in chosen.items() if not event["is_used"]}
    tests = list(ledger.all(EventKind.MIRROR_TEST).items())
    if tests:
        key, test = tests[-1]
        trials.uses_flips = test["verdict"] == "on" or chosen.get(key, {}).get("is_used", False)
    for event in ledger.all(EventKind.TRIAL).values():
        trials.add(Trial.from_event(event))
    for kind in (EventKind.RUNG, EventKind.FOLD):
        for key, event in ledger.all(kind).items():
            trials.add_result(RungResult.from_event(TrainingKey.parse(key), event))
    for key, event in ledger.all(EventKind.CROSS_VALIDATION).items():
        trials.add_cross_validation(int(key), event)
    return trials


def cross_validation_of(event: Mapping[str, Any], finalist: Mapping[str, Any]) -> CrossValidation:
    """The accuracy of a finalist in the value of a `EventKind.CROSS_VALIDATION` event."""
    return CrossValidation(
        finalist["accuracy"],
        finalist["low"],
        finalist["high"],
        len(event["folds"]),
        event["samples"],
    )


def result_event(
    result: TaskResult,
    epochs: int,
    validation: Part | EvaluatedSamples | None = None,
    planned_epochs: int = 0,
) -> dict[str, Any]:
    """Value of the ledger event of a finished training: its result and the seconds it took.

    Parameters
    ----------
    result : TaskResult
        Of the training.
    epochs : int
        Epochs of the trial after it.
    validation : Part or EvaluatedSamples, optional
        The samples that it was evaluated on.
    planned_epochs : int
        Epochs of the trial after it if it had not been shortened.
    """
    event = {
        "epochs": epochs,
        "correct": result.correct,
        "failed": result.failed,
        "seconds": round(sum(result.seconds), 3),
    }
    event |= {"arithmetic": result.arithmetic} if result.arithmetic else {}
    event |= {"host": result.host} if result.host else {}
    if result.schedule_changes:
        event |= {"planned_epochs": planned_epochs, "schedule_changes": result.schedule_changes}
    if result.retried:
        event |= {"micro_batches": result.micro_batches, "retried": result.retried}
    if validation is not None and validation.strata is not None and not result.failed:
        # Readers of the ledger have no labels to compute these from.
        correct, strata = unpack(result.correct), validation.strata
        low, high = accuracy_interval(correct, validation.groups, strata)
        share = balanced.effective_fraction(correct, None, strata, 0.95)
        event["balanced"] = {
            "accuracy": balanced.balanced_mean(correct, strata),
            "low": low,
            "high": high,
            "samples": max(1, round(len(correct) * share)),
        }
    return event


def stronger_augmentation(recipe: Recipe, space: SearchSpace) -> float | None:
    """The next higher value of `augment` in the search space; None where there is none."""
    values = {float(v) for p in space.train_parameters("augment") for v in p.values}
    return min((value for value in values if value > recipe.augment), default=None)


def recipe_of(recipe: Recipe, key: TrainingKey) -> Recipe:
    """The recipe of one training of a trial: `recipe` with augmentation and flips of the key."""
    augment = recipe.augment if key.augment is None else key.augment
    return dataclasses.replace(recipe, augment=augment, flip=recipe.flip or key.flip)
