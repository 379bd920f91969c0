"""Stopping rules: who is trained on, and how long, once a rung has been finished."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_automl.search.pareto import pareto_ranks
from lepton_automl.search.rungs import ETA

LAST = 2
"""Number of the last rung."""
STARTUP = 5
"""Of the median rule, as Optuna's pruner has it by default."""


@dataclass
class State:
    """What a simulated search has seen."""

    seen: dict[int, list[float]] = field(default_factory=dict)
    """Point -> accuracy at its rungs, in the order they were started."""
    stopped: set[int] = field(default_factory=set)

    def at(self, rung: int) -> dict[int, float]:
        """Points that finished `rung`."""
        return {n: values[rung] for n, values in self.seen.items() if len(values) > rung}


class Rule(ABC):
    """Names the point to train on, or nobody, so that a new one starts."""

    tells_first = False
    """The sampler is told the accuracy at the first rung, as nobody knows who will go on."""

    @abstractmethod
    def next(self, state: State, *, closing: bool) -> int | None:
        """Who is trained to the next rung now; `closing`: nobody new will come."""


class Never(Rule):
    """No early stopping: every point is trained to the end at once."""

    def next(self, state: State, *, closing: bool) -> int | None:
        del closing
        last = next(reversed(state.seen), None)
        return last if last is not None and self.keeps(state, last) else None

    def keeps(self, state: State, number: int) -> bool:
        """Whether the newest point goes on."""
        rung = len(state.seen[number]) - 1
        if rung == LAST or number in state.stopped:
            return False
        if self.stops(state, number, rung):
            state.stopped.add(number)
            return False
        return True

    def stops(self, state: State, number: int, rung: int) -> bool:
        """Whether it is not worth it."""
        del state, number, rung
        return False


class Median(Never):
    """As Optuna's MedianPruner: below the median of those that were trained to the end."""

    def stops(self, state: State, number: int, rung: int) -> bool:
        complete = [values for values in state.seen.values() if len(values) > LAST]
        if len(complete) < STARTUP:
            return False
        return max(state.seen[number]) < float(np.median([values[rung] for values in complete]))


class Halving(Never):
    """As Optuna's SuccessiveHalvingPruner: goes on only if now in the best third of its rung."""

    def stops(self, state: State, number: int, rung: int) -> bool:
        values = sorted(state.at(rung).values(), reverse=True)
        return state.seen[number][rung] < values[max(1, len(values) // ETA) - 1]


class Asha(Rule):
    """Asynchronous successive halving with promotions (Li et al. 2020, algorithm 2)."""

    tells_first = True

    def __init__(self, costs: Sequence[float] | None = None) -> None:
        self.costs = costs
        """By point: with them, those who go on are the first by Pareto rank."""

    def ordered(self, here: Mapping[int, float]) -> list[int]:
        """Points of a rung, best first."""
        best = sorted(here, key=lambda n: -here[n])
        if self.costs is None or not best:
            return best
        ranks = pareto_ranks(np.array([(-here[n], self.costs[n]) for n in best]))
        return [best[place] for place in np.argsort(ranks, kind="stable")]

    def top(self, state: State) -> int:
        """The highest rung that may be reached now."""
        del state
        return LAST

    def next(self, state: State, *, closing: bool) -> int | None:
        for rung in reversed(range(self.top(state))):
            here, beyond = state.at(rung), set(state.at(rung + 1))
            ordered = self.ordered(here)
            quota = min(max(len(ordered) // ETA, 1 if closing else 0), len(ordered))
            for number in ordered[:quota]:
                if number not in beyond:
                    return number
        return None


class Pasha(Asha):
    """Progressive ASHA (Bohdal et al. 2023): the last rung opens once a ranking is unstable."""

    tolerance = 0.01
    """Accuracies so near to each other may change places."""

    def top(self, state: State) -> int:
        upper, lower = state.at(1), state.at(0)
        both = sorted(upper, key=lambda n: -lower[n])
        swapped = any(
            upper[b] - upper[a] > self.tolerance for i, a in enumerate(both) for b in both[i + 1 :]
        )
        return LAST if swapped or len(upper) > STARTUP else 1


RULES: dict[str, type[Rule]] = {
    "none": Never,
    "median": Median,
    "halving": Halving,
    "asha": Asha,
    "pasha": Pasha,
}
