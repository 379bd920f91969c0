"""A search's outcome with made-up figures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from lepton_automl.compress.steps import CompressionResult, StepRecord
from lepton_automl.cost.cost import Cost
from lepton_automl.pipeline.status import RungNow, Status, WorkerNow
from lepton_automl.search.request import SearchResult, TrialRow
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch, random_model


def row(number: int, accuracy: float | None, size: int, latency: float | None) -> TrialRow:
    """One candidate."""
    return TrialRow(
        number=number,
        params={"stage1.out": 16},
        arch=random_arch(number),
        recipe=Recipe(),
        cost=Cost(size, size // 2, size // 2, 1000, 100, latency),
        accuracy=accuracy,
        interval=None if accuracy is None else (accuracy - 0.01, accuracy + 0.01),
        rung=2,
        epochs=9,
        feasible=True,
    )


def found(latency: float | None = 0.01) -> SearchResult:
    """Two candidates on the front, one that never finished."""
    later = None if latency is None else 2 * latency
    first, winner = row(0, 0.9, 9_000, latency), row(1, 0.98, 12_000, later)
    return SearchResult(
        best=random_model(random_arch(1)),
        number=1,
        recipe=Recipe(),
        reason="the cheapest [of all]",
        rows=(first, winner, row(2, None, 15_000, latency)),
        front=(first, winner),
        correct=np.ones(3, bool),
        predictions=np.zeros(3, np.int64),
    )


def status(**changes) -> Status:
    """A run that works: one worker trains, one waits, one has nothing to do."""
    point = {"number": 3, "accuracy": 0.981, "size_bytes": 12_345, "latency_ms": 0.0512}
    point |= {"macs": 1_200_000, "rung": 1, "epochs": 6, "note": ""}
    definition = SimpleNamespace(
        data="digits", data_fingerprint="abc", space="tiny", balanced=False
    )
    settings = {
        "folder": SimpleNamespace(path="runs/[x]"),
        "definition": definition,
        "alive_seconds": 130.0,
        "events": {"plan": 1, "trial": 3},
        "has_winner": False,
        "verdict": None,
        "state": "working",
        "command": {"words": "lepton run digits", "pid": 4711, "budget_seconds": 600.0},
        "silent_seconds": 0.2,
        "error": "",
        "progress": {"stage": "search", "message": "trial [3]", "done": 130.0, "total": 520.0},
        "messages": ({"stage": "search", "message": "the worker of trial 1 [x]", "at": 1.0},),
        "workers": (
            WorkerNow(101, "7-1", 4.2, 0.5, False),
            WorkerNow(102, "3-final-0", 9.0, 0.1, True),
            WorkerNow(103, "", 0.0, 0.0, False),
        ),
        "hosts": (),
        "rungs": (RungNow(0, 3, 1), RungNow(1, 1, 0)),
        "found": {"best": point, "front": [point], "trials": 3, "eta_seconds": 480.0},
        "hypervolume": (0.1, 0.4, 0.8),
        "store": {},
    }
    return Status(**(settings | changes))


def compressed() -> CompressionResult:
    """A winner, a rejected cut, the int8 net."""
    model = random_model(random_arch(1))
    steps = (
        StepRecord(
            "reference",
            0.98,
            "a",
            12_000,
            1000,
            0.02,
            True,
            "every drop counts from here",
            interval=(0.96, 0.99),
        ),
        StepRecord("pruned-1", 0.9, "b", 9_000, 800, 0.015, False, "loses 8 points"),
        StepRecord("quantized", 0.979, "a", 12_000, 1000, None, True, "static [plain]"),
    )
    return CompressionResult(model, model, model, steps)
