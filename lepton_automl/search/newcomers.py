"""Newcomers: where candidates come from, and what the sampler learns of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_automl.arch import Arch
from lepton_automl.cost import Cost
from lepton_automl.errors import ConfigError
from lepton_automl.events import Event
from lepton_automl.objectives import Objective
from lepton_automl.recipe import Recipe
from lepton_automl.search.cost_check import CostCheck
from lepton_automl.search.feasible import Proposer
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.sampler import Sampler
from lepton_automl.search.trials import RungResult, Trial, Trials
from lepton_automl.search.warm_start import recorded
from lepton_automl.search.work import SearchWork
from lepton_automl.space import SpaceTrial

METADATA_BYTES = 120
"""Fingerprint of the data and version in a file, with their keys."""
WORTH_TELLING = 20
"""Refused points for one candidate from which the user is told once that limits bite."""


class Newcomers:
    """New candidates within the limits, written to the ledger as they come.

    Parameters
    ----------
    work : SearchWork
        Space, data, limits, ledger.
    trials : Trials
        Those of earlier sessions; new ones are added.
    objectives : sequence of Objective
        What the sampler makes good.
    quiet : Quiet
        Makes workers pause while a candidate is timed.
    """

    def __init__(
        self, work: SearchWork, trials: Trials, objectives: Sequence[Objective], quiet: Quiet
    ) -> None:
        self._work, self._trials = work, trials
        warm = recorded(work.ledger)
        self.observed = warm.within(work.config.limits)
        """Known from another run."""
        self.first = warm.begins_with(work.space.candidates)
        """Points that are tried before anything is asked."""
        self._sampler = Sampler(self.draw, objectives, self.first, seed=work.config.seed)
        self._check = check = CostCheck(
            work.config.limits,
            work.target,
            label_bytes(work.dataset.class_names),
            needs_latency=work.config.limits.max_latency_ms is not None
            or any(objective.needs_timing for objective in objectives),
            ledger=work.ledger,
            quiet=quiet,
            model=work.latency_model,
        )
        self._time_here(check)
        for other in self.observed:
            self._sampler.restore(other.candidate, other.accuracy, finished=True)
        for number, candidate in trials.items():
            scores = trials.results[number]
            accuracy = None if not scores or scores[0].failed else scores[0].accuracy
            self._sampler.restore(candidate, accuracy, finished=bool(scores))
        known = [*(other.candidate for other in self.observed), *trials.values()]
        knobs = work.space.parameters()
        self._proposer = Proposer(self._sampler, self.draw, knobs, check, known)
        self.exhausted = False
        """Nothing new is left in the space within the limits."""
        self._told: set[str] = set()

    def guess(self, arch: Arch) -> Cost:
        """What a net would cost, about; the same whatever was found before."""
        self._check.guess.forget()
        return self._check.guess(arch)

    def add(self, wishes: Sequence[Mapping[str, Any]] = ()) -> Trial | None:
        """The next candidate, recorded; None where the space is exhausted.

        Parameters
        ----------
        wishes : sequence of mapping
            Points to take, the best first, where they are new and within the limits.

        Raises
        ------
        InfeasibleError
            If no point within the limits is known at all.
        """
        number = len(self._trials)
        self._sampler.wishes = wishes
        candidate = self._proposer.propose(number)
        if candidate is None:
            if not number:
                raise ConfigError(
                    "all nets of the space within the limits were trained in the run that "
                    "--warm-start names",
                    fix="take what that run found (see `lepton pick`), or another --space",
                )
            self.exhausted = True
            self._tell("nothing new is left in the search space within the limits")
            return None
        self._warn(candidate)
        self._work.ledger.record(EventKind.TRIAL, str(number), candidate.to_event())
        self._trials.add(candidate)
        return candidate

    def learn(self, number: int, score: RungResult) -> None:
        """What a candidate reached at the first rung."""
        accuracy = None if score.failed else score.accuracy
        self._sampler.tell(number, accuracy, self._trials[number].cost)

    def _warn(self, candidate: Trial) -> None:
        """Say that limits bite: when one first takes long to meet, and when hardly any net does."""
        tally = self._proposer.tally
        reasons = {"many": len(candidate.rejected) >= WORTH_TELLING, "scarce": tally.is_scarce}
        new = {reason for reason, holds in reasons.items() if holds} - self._told
        if new:
            self._told |= new
            self._tell(tally.words())

    def _time_here(self, check: CostCheck) -> None:
        """On another machine than before, measure the candidates' latencies anew."""
        if check.elsewhere is None:
            return
        known = self._trials
        self._tell(
            f"this run was measured on {check.elsewhere}, which this machine is not: latencies "
            f"of {len(known)} candidates are measured anew"
        )
        for candidate in list(known.values()):
            known.replace(dataclasses.replace(candidate, cost=check.whole(candidate.arch)))

    def draw(self, trial: SpaceTrial) -> tuple[Arch, Recipe]:
        """What a trial gives for these data and this target."""
        data = self._work.dataset
        return self._work.space.sample(
            trial,
            size=data.size,
            channels=data.channels,
            classes=len(data.class_names),
            target=self._work.target,
        )

    def _tell(self, message: str) -> None:
        self._work.emit(Event("search", message))


def label_bytes(class_names: Sequence[str]) -> int:
    """What class names (where longer than numbers) and metadata add to a file, about."""
    numbered = sum(len(str(number)) for number in range(len(class_names)))
    return sum(len(name.encode()) for name in class_names) - numbered + METADATA_BYTES
