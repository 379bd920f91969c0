from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_automl.callbacks import Callback, End, Run, Rung
from lepton_automl.search.feed import Feed
from lepton_automl.search.hypervolume import REFERENCE
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.task import pack
from tests.searching import candidate


class Notebook(Callback):
    """Writes down what it is told."""

    failures = (KeyError,)

    def __init__(self, known: int = 0) -> None:
        self.known, self.rungs, self.ends = known, list[Rung](), list[End]()
        self.run: Run | None = None

    def start(self, run: Run) -> int:
        self.run = run
        return self.known

    def rung(self, rung: Rung) -> None:
        self.rungs.append(rung)

    def end(self, end: End) -> None:
        self.ends.append(end)


def feed(callback: Callback) -> Feed:
    return Feed("notebook", callback, Run("mine", Path("x")))


def tell(made: Feed, *, winner: bool = True) -> None:
    first = candidate(0, size=5_000, **{"stem.out": 8}).to_event()
    made.observe(EventKind.TRIAL, "0", first)
    made.observe(EventKind.HYPERVOLUME, REFERENCE, {"point": [0, 0]})
    for step, (rung, right, failed) in enumerate((("0", 100, ""), ("1", 0, "diverged"))):
        correct = "" if failed else pack(np.arange(200) < right)
        value = {"epochs": step + 1, "correct": correct, "failed": failed, "seconds": 0.5}
        made.observe(EventKind.RUNG, f"0-{rung}", value)
        made.observe(EventKind.HYPERVOLUME, f"0-{rung}", {"value": 0.25, "seconds": 9.0})
    if winner:
        made.observe(EventKind.WINNER, "0", {"number": 0, "reason": "alone"})


def test_a_rung_is_told_with_all_that_is_known_of_it() -> None:
    notebook = Notebook()
    made = feed(notebook)
    tell(made)
    made.close()
    first, second = notebook.rungs
    assert (first.step, first.number, first.rung, first.epochs) == (0, 0, "0", 1)
    assert (first.accuracy, first.hypervolume, first.seconds) == (0.5, 0.25, 0.5)
    assert (first.params, first.costs["size_bytes"]) == ({"stem.out": 8}, 5_000)
    assert "latency_ms" not in first.costs
    assert all(isinstance(cost, int | float) for cost in first.costs.values())
    assert (second.step, second.accuracy, second.failed) == (1, None, "diverged")
    assert notebook.ends == [End(0, "alone")]
    assert made.failures == (KeyError,)


def test_what_it_has_already_is_not_told_again() -> None:
    notebook = Notebook(known=1)
    tell(feed(notebook))
    assert [rung.step for rung in notebook.rungs] == [1]


def test_a_search_that_was_stopped_has_no_winner() -> None:
    notebook = Notebook()
    made = feed(notebook)
    tell(made, winner=False)
    made.close()
    assert notebook.ends == [End()]


def test_what_never_began_does_not_end() -> None:
    notebook = Notebook()
    feed(notebook).close()
    assert notebook.ends == []
