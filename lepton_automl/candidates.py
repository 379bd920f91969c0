"""Candidates: the trained nets of a run and its saved pruned steps, with what each costs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl import shares, stages
from lepton_automl import wording as w
from lepton_automl.compress.ladder import read_rungs
from lepton_automl.config import LIMITS, Limits, would_fit
from lepton_automl.cost import Cost
from lepton_automl.dataset import load_labelled
from lepton_automl.errors import DataError, InfeasibleError
from lepton_automl.evaluate import is_correct
from lepton_automl.model import Model
from lepton_automl.pick import Option, excess
from lepton_automl.search.cost_check import CostCheck
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.newcomers import label_bytes
from lepton_automl.search.plan import work_of
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import RungResult, TrainingKey, Trials, read_trials
from lepton_automl.session import Session
from lepton_automl.statistics import accuracy_interval, wilson_interval


@dataclass(frozen=True, eq=False)
class Point:
    """A net that can be made an artifact without searching."""

    label: str
    """`trial 7`, or `pruned-2 of the winner`."""
    name: str
    """The same as a part of a folder's name."""
    option: Option
    trial: int
    """The candidate it is, or was pruned from."""
    step: Path | None = None
    """Folder of a pruned net; None: the candidate itself."""


class Candidates:
    """What a pick chooses from.

    Parameters
    ----------
    session : Session
        The run, with the limits of the pick.
    quiet : Quiet
        For latencies that were not measured yet.
    """

    def __init__(self, session: Session, quiet: Quiet) -> None:
        self._session, self._quiet = session, quiet
        self.trials: Trials = read_trials(session.ledger)
        self.work = stages.search_work(session)
        self.tasks = Tasks(self.work, self.trials)
        self._validation = session.dataset.validation

    def legal(self) -> list[Point]:
        """The points that keep the limits, as far as costs and known accuracies tell.

        Raises
        ------
        DataError
            If nothing was trained yet.
        InfeasibleError
            If none does; says which limit bites and what would fit.
        """
        limits = self._session.config.limits
        points = [self._trial(number) for number in self.trials.trained()] + self._steps()
        if not points:
            path = self._session.folder.path
            raise DataError(f"{path} has trained nothing yet", fix="run `lepton search` first")
        kept = [point for point in points if not excess(point.option.cost, limits)]
        if not kept:
            raise _too_dear(points, limits)
        least, best = limits.min_accuracy, max(kept, key=lambda point: point.option.accuracy)
        if least is not None and _upper(best.option) < least:
            raise _too_weak(best, least)
        return kept

    def final(self, number: int) -> RungResult | None:
        """The best of a candidate's last trainings, if it had one."""
        good = [score for score in self.trials.finals.get(number, []) if not score.failed]
        return max(good, key=lambda score: score.accuracy, default=None)

    def seconds_per_epoch(self, number: int) -> float:
        """Of a training of this candidate, about, from the first rungs of all."""
        seconds, work = 0.0, 0.0
        for key, event in self._session.ledger.all(EventKind.RUNG).items():
            trial = TrainingKey.parse(key).trial
            if key == str(TrainingKey(trial)) and not event["failed"]:
                seconds += event["seconds"]
                work += self._work(trial, event["epochs"])
        return seconds / work * self._work(number, 1) if work else 0.0

    def later(self, number: int, budget: float) -> shares.Later:
        """What compression and proof of this candidate will need of `budget` seconds."""
        data = self._session.dataset
        sizes = shares.Sizes(
            len(data.train), len(data.validation), len(data.test), self._session.start_seconds
        )
        return shares.later(
            budget, sizes, self.seconds_per_epoch(number), self.trials.epochs_of(number)
        )

    def _work(self, number: int, epochs: int) -> float:
        return work_of(self.trials[number].cost.macs, self.tasks.samples, epochs)

    def _trial(self, number: int) -> Point:
        candidate = self.trials[number]
        cost = candidate.cost
        if cost.latency_ms is None and self._session.config.limits.max_latency_ms is not None:
            cost = self._check.whole(candidate.arch)
        good = [score for score in self.trials.finals.get(number, []) if not score.failed]
        scores = good or [self.trials.search_result(number)]
        share = np.mean([score.correct for score in scores], axis=0)
        option = self._option(number, share, cost)
        return Point(f"trial {number}", f"trial-{number}", option, number)

    def _option(self, number: int, correct: np.ndarray, cost: Cost) -> Option:
        return Option(number, correct, cost, self._validation.groups, self._validation.strata)

    def _steps(self) -> list[Point]:
        """Pruned nets that a compression of this run has kept, numbered after all trials."""
        points: list[Point] = []
        named = list(self._session.ledger.all(EventKind.WINNER).values())
        winner = named[-1]["number"] if named else 0
        for folder in sorted(self._session.folder.models.glob("compressed-*")):
            kept = [r for r in read_rungs(folder) if r.is_accepted and r.name.startswith("pruned")]
            for rung in kept:
                number = len(self.trials) + len(points)
                model = Model.load(folder / rung.name)
                cost = self._check.whole(model.arch)
                option = self._option(number, self._correct(model), cost)
                label = f"{rung.name} of the winner"
                points.append(Point(label, rung.name, option, winner, folder / rung.name))
        return points

    def _correct(self, model: Model) -> np.ndarray:
        session, size = self._session, model.arch.input[:2]
        files = session.dataset.decoded_files("validation", size, session.folder.cache)
        return is_correct(model, load_labelled(files), device=session.device)

    @functools.cached_property
    def _check(self) -> CostCheck:
        session = self._session
        return CostCheck(
            session.config.limits,
            session.target,
            label_bytes(session.dataset.class_names),
            needs_latency=session.config.asks_for_latency,
            ledger=session.ledger,
            quiet=self._quiet,
            model=session.latency_model,
        )


def _too_dear(points: Sequence[Point], limits: Limits) -> InfeasibleError:
    nearest = min(points, key=lambda point: sum(excess(point.option.cost, limits).values()))
    broken = excess(nearest.option.cost, limits)
    values = {n: LIMITS[n].measured(nearest.option.cost) or 0.0 for n in broken}
    asked = ", ".join(f"{LIMITS[n].words} {_text(n, limits.stated[n])}" for n in broken)
    has = ", ".join(_text(n, value) for n, value in values.items())
    return InfeasibleError(
        f"none of the {len(points)} trained nets and pruned steps keeps {asked}; the nearest, "
        f"{nearest.label}, has {has}",
        fix=f"{would_fit(values)}; or search with this limit, into another folder",
    )


def _text(limit: str, value: float) -> str:
    return w.quantity_text(value, LIMITS[limit].unit)


def _upper(option: Option) -> float:
    """What the accuracy is at most, as far as the validation samples tell."""
    if option.strata is not None:
        return accuracy_interval(option.correct, option.groups, option.strata)[1]
    n = len(option.correct)
    return wilson_interval(round(option.accuracy * n), n)[1]


def _too_weak(best: Point, least: float) -> InfeasibleError:
    reached = best.option.accuracy
    return InfeasibleError(
        f"no trained net within the other limits reaches {least:.2%} on validation; the best, "
        f"{best.label}, has {reached:.2%}",
        fix=f"{would_fit({'min_accuracy': reached})}; or search longer: the same run with a larger "
        "--budget or --trials",
    )
