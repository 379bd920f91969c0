"""Feed: the ledger's events in the words of a callback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_automl.callbacks import Callback, End, Run, Rung
from lepton_automl.search.hypervolume import REFERENCE
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.trials import RungResult, TrainingKey, Trial


class Feed:
    """Tells a callback every rung that it has not been told of, in order.

    Parameters
    ----------
    name : str
        Of the callback.
    callback : Callback
        Who is told.
    run : Run
        What is searched.
    """

    def __init__(self, name: str, callback: Callback, run: Run) -> None:
        self.name = f"the callback {name}"
        self.failures = callback.failures
        self._callback, self._run = callback, run
        self._told: int | None = None
        self._step = 0
        self._candidates: dict[int, Trial] = {}
        self._scores: dict[str, Mapping[str, Any]] = {}
        self._end = End()

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Take notice of one event; a rung is told of once its hypervolume is known."""
        if self._told is None:
            self._told = self._callback.start(self._run)
        if kind == EventKind.TRIAL:
            candidate = Trial.from_event(dict(value))
            self._candidates[candidate.number] = candidate
        elif kind == EventKind.RUNG:
            self._scores[key] = value
        elif kind == EventKind.HYPERVOLUME and key != REFERENCE:
            self._tell(key, value["value"])
        elif kind == EventKind.WINNER:
            self._end = End(value["number"], value["reason"])

    def close(self) -> None:
        """The session has ended."""
        if self._told is not None:
            self._callback.end(self._end)

    def _tell(self, key: str, hypervolume: float) -> None:
        step, self._step = self._step, self._step + 1
        event = self._scores.pop(key)
        if self._told is None or step < self._told:
            return
        score = RungResult.from_event(TrainingKey.parse(key), dict(event))
        candidate = self._candidates[score.key.trial]
        costs = {k: v for k, v in vars(candidate.cost).items() if isinstance(v, int | float)}
        self._callback.rung(
            Rung(
                step,
                score.key.trial,
                score.key.label,
                score.epochs,
                None if score.failed else score.accuracy,
                score.failed,
                candidate.params,
                costs,
                hypervolume,
                event["seconds"],
            )
        )
