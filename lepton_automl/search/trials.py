"""Trials: candidates and what is known of them, rebuilt from the ledger alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl import balance
from lepton_automl.arch import Arch
from lepton_automl.balance import Strata
from lepton_automl.cost import Cost
from lepton_automl.dataset import Part
from lepton_automl.objectives import Objective
from lepton_automl.recipe import Recipe
from lepton_automl.search.ledger import EventKind, LedgerView
from lepton_automl.search.plan import Plan
from lepton_automl.search.rungs import Standing
from lepton_automl.search.task import TaskResult, unpack
from lepton_automl.statistics import interval, wilson

CLASSES = "classes"
"""Key of the `EventKind.PLAN` event with the class of each validation sample."""
FINAL = "final"
"""In place of a rung's number: one of the last trainings of the few best."""


@dataclass(frozen=True, eq=False)
class Refusal:
    """A point of the space that was not trained because its costs break a limit."""

    params: dict[str, Any]
    distributions: dict[str, str]
    excess: dict[str, float]
    """Limit -> how far beyond it the cost is, 0.5 for one and a half times."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point of the space that meets the cost limits."""

    number: int
    params: dict[str, Any]
    distributions: dict[str, str]
    """Optuna's description of each parameter, as JSON."""
    arch: Arch
    recipe: Recipe
    cost: Cost
    refused: tuple[Refusal, ...] = ()
    """What was drawn and refused before it."""

    def to_event(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return dataclasses.asdict(
            dataclasses.replace(self, arch=None, recipe=None, cost=None)  # type: ignore[arg-type]
        ) | {
            "arch": self.arch.to_json(),
            "recipe": self.recipe.to_json(),
            "cost": dataclasses.asdict(self.cost),
        }

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Candidate:
        """Read what `to_event` wrote."""
        known = dict(event)
        known["cost"] = Cost(**event["cost"])
        known["refused"] = tuple(Refusal(**refusal) for refusal in event["refused"])
        # Thousands are rebuilt when a search goes on, and the nets of few of them are looked at.
        known["texts"] = {name: known.pop(name) for name in ("arch", "recipe")}
        candidate = object.__new__(cls)
        vars(candidate).update(known)
        return candidate

    if not TYPE_CHECKING:  # Else it would hide misspelt names.

        def __getattr__(self, name: str) -> object:
            """`arch` and `recipe` of a recorded candidate, read when first asked for."""
            reads = {"arch": Arch.from_json, "recipe": Recipe.from_json}
            if name not in reads:
                raise AttributeError(name)
            vars(self)[name] = reads[name](vars(self)["texts"][name])
            return vars(self)[name]


@dataclass(frozen=True, eq=False)
class Score:
    """What a candidate reached at the end of a rung."""

    rung: str
    """"0", "1", ... or "final-0", "final-1", ... for a last training; another one of the same round
    is "final-0-1", a taught one "final-0-taught"."""
    epochs: int
    """In all, this rung included."""
    answers: str
    """Which validation samples are right, as `task.pack` writes them."""
    failed: str = ""
    parts: int = 1
    """In how many pieces batches went through the net; more than 1 after memory had run out."""
    balanced: Mapping[str, float] | None = None
    """`accuracy`, `low`, `high` and `samples` where every class counts alike."""

    @functools.cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) validation samples; none for a training that failed."""
        return np.zeros(0, np.bool_) if self.failed else unpack(self.answers)

    @functools.cached_property
    def accuracy(self) -> float:
        """Share of correct samples, or what takes its place; 0 for a training that failed."""
        if self.balanced is not None:
            return self.balanced["accuracy"]
        return 0.0 if self.failed else float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the accuracy."""
        if self.balanced is not None:
            return self.balanced["low"], self.balanced["high"]
        return wilson(int(self.correct.sum()), len(self.correct))

    @property
    def samples(self) -> int:
        """Independent samples that tell as much; 0 for a training that failed."""
        return len(self.correct) if self.balanced is None else int(self.balanced["samples"])

    @classmethod
    def from_event(cls, rung: str, event: Mapping[str, Any]) -> Score:
        """From the value of a `rung` event."""
        answers, failed, parts = event["correct"], event["failed"], event.get("parts", 1)
        return cls(rung, event["epochs"], answers, failed, parts, event.get("balanced"))


class Trials:
    """All candidates and their scores."""

    def __init__(self) -> None:
        self.candidates: dict[int, Candidate] = {}
        self.scores: dict[int, list[Score]] = {}
        self.finals: dict[int, list[Score]] = {}
        self.plan: Plan | None = None
        self.strata: Strata = None
        self._finished: dict[int, int] = {}
        self._standings: dict[tuple[object, ...], dict[int, Standing]] = {}

    def __len__(self) -> int:
        return len(self.candidates)

    def add(self, candidate: Candidate) -> None:
        """A candidate that starts."""
        self.candidates[candidate.number] = candidate
        self.scores[candidate.number] = []

    def score(self, number: int, score: Score) -> None:
        """The candidate has finished its next rung, or its last training."""
        if score.rung.startswith(FINAL):
            self.finals.setdefault(number, []).append(score)
        else:
            self.scores[number].append(score)
            rung = len(self.scores[number]) - 1
            self._finished[rung] = self._finished.get(rung, 0) + 1

    def epochs_of(self, number: int) -> int:
        """Epochs of a candidate's last rung: as planned, or its recipe's own."""
        planned = self.plan.epochs if self.plan else None
        return planned or self.candidates[number].recipe.epochs

    def alive(self) -> list[int]:
        """Those that finished a rung and did not fail at the first."""
        return [n for n, scores in self.scores.items() if scores and not scores[0].failed]

    def unstarted(self) -> list[int]:
        """Those that have not finished any rung."""
        return [number for number, scores in self.scores.items() if not scores]

    def latest(self, number: int) -> Score:
        """The best of its last rung and its last trainings, of equals the newest."""
        trained = [self.searched(number), *(s for s in self.finals.get(number, []) if not s.failed)]
        return max(reversed(trained), key=lambda score: score.accuracy)

    def searched(self, number: int) -> Score:
        """What the candidate had reached when it was selected, before any last training."""
        return [s for s in self.scores[number] if not s.failed][-1]

    def final(self, number: int, rung: str) -> Score | None:
        """One of its last trainings, by its label."""
        return next((s for s in self.finals.get(number, []) if s.rung == rung), None)

    def epochs_before(self, number: int) -> int:
        """Epochs a candidate had in its rungs."""
        return max((s.epochs for s in self.scores[number] if not s.failed), default=0)

    def standings(self, rung: int, costs: list[Objective]) -> list[Standing]:
        """Everybody who finished `rung`; each is made once, as this is asked for all the time."""
        known = self._standings.setdefault((rung, *map(type, costs)), {})
        for number, scores in self.scores.items():
            if number not in known and len(scores) > rung and not scores[rung].failed:
                score = scores[rung]
                about = self.costs(number, costs), score.samples
                known[number] = Standing(number, score.accuracy, *about)
        return [known[number] for number in self.scores if number in known]

    def finished(self, rung: int) -> int:
        """How many have finished `rung`, or failed at it."""
        return self._finished.get(rung, 0)

    def beyond(self, rung: int) -> set[int]:
        """Numbers of those that finished more than `rung`, or tried."""
        return {number for number, scores in self.scores.items() if len(scores) > rung + 1}

    def costs(self, number: int, objectives: list[Objective]) -> tuple[float, ...]:
        """The candidate's figures for objectives that need no training; less is better."""
        cost = self.candidates[number].cost
        return tuple(o.value(None, cost) * o.sign for o in objectives)


def read_trials(ledger: LedgerView) -> Trials:
    """All trials that a ledger knows."""
    trials = Trials()
    plan = ledger.get(EventKind.PLAN, "search")
    trials.plan = Plan.from_event(plan) if plan else None
    classes = ledger.get(EventKind.PLAN, CLASSES)
    trials.strata = np.array(classes["validation"], np.int64) if classes else None
    for event in ledger.all(EventKind.TRIAL).values():
        trials.add(Candidate.from_event(event))
    for key, event in ledger.all(EventKind.RUNG).items():
        number, rung = parsed(key)
        trials.score(number, Score.from_event(rung, event))
    return trials


def parsed(key: str) -> tuple[int, str]:
    """Number and rung in the key of a task or a `rung` event, such as "7-0" or "7-final-0"."""
    number, _, rung = key.partition("-")
    return int(number), rung


def score_event(result: TaskResult, epochs: int, validation: Part | None = None) -> dict[str, Any]:
    """What the ledger keeps of a task: everything that decides, and the seconds it took."""
    event = {
        "epochs": epochs,
        "correct": result.correct,
        "failed": result.failed,
        "seconds": round(sum(result.seconds), 3),
    }
    if result.retried:
        event |= {"parts": result.parts, "retried": result.retried}
    if validation is not None and validation.strata is not None and not result.failed:
        event["balanced"] = _balanced(unpack(result.correct), validation)
    return event


def _balanced(correct: NDArray[np.bool_], validation: Part) -> dict[str, float]:
    """What every class counting alike makes of answers: the ledger's readers know no labels."""
    strata, groups = validation.strata, validation.groups
    low, high = interval(correct, groups, strata)
    share = balance.effective_share(correct, None, strata, 0.95)
    accuracy, samples = balance.mean(correct, strata), max(1, round(len(correct) * share))
    return {"accuracy": accuracy, "low": low, "high": high, "samples": samples}
