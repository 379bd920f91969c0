from __future__ import annotations

import math
import random

import numpy as np

from lepton_automl.search.scheduler import Contender, best_of, budgets, prospects
from lepton_automl.search.space.parameters import Choice, Range
from lepton_automl.search.surrogate import Encoding

KNOBS = {"width": Range(8, 64, 8), "lr": Choice((0.05, 0.1, 0.2))}
ENCODING = Encoding(KNOBS)


def contender(width: int, lr: float, *results: tuple[int, float], **more: int) -> Contender:
    return Contender({"width": width, "lr": lr}, (float(width),), results, 4000, **more)


def test_a_search_of_guided_steps_ends_at_the_best_point() -> None:
    def accuracy(point: dict[str, float], left: int) -> float:
        error = 0.3 * (8 / point["width"]) ** 0.3 * (1 + 5 * abs(point["lr"] - 0.1))
        return 1 - error * 1.4**left

    points = [{"width": w, "lr": lr} for w in range(8, 72, 8) for lr in (0.05, 0.1, 0.2)]
    results: dict[int, tuple[tuple[int, float], ...]] = {0: ((2, accuracy(points[0], 2)),)}
    spent = 1
    best = points.index({"width": 64, "lr": 0.1})
    while len(results.get(best, ())) < 3:
        everybody = [Contender(p, (), results.get(n, ()), 4000) for n, p in enumerate(points)]
        prospect = prospects(ENCODING, everybody, (), spent)
        row = best_of(prospect, [n for n, c in enumerate(everybody) if not c.is_complete])
        assert row is not None
        left = 2 - len(results.get(row, ()))
        results[row] = (*results.get(row, ()), (left, accuracy(points[row], left)))
        spent += (6, 2, 1)[left]
    assert spent <= 30


def test_beyond_the_budget_nobody_has_a_prospect() -> None:
    everybody = [contender(8, 0.1, (2, 0.6)), contender(64, 0.1, (2, 0.9)), contender(16, 0.2)]
    prospect = prospects(ENCODING, everybody, (16.0,), 0)
    assert prospect[1] == -math.inf
    assert np.isfinite(prospect[[0, 2]]).all()
    assert best_of(prospect, [1]) is None
    assert best_of(prospect, [0, 1, 2]) in (0, 2)


def test_a_budget_is_open_or_anything_between_the_costs_evenly_in_logarithms() -> None:
    everybody = [contender(8, 0.1, (2, 0.6)), contender(32, 0.1, (2, 0.9)), contender(64, 0.2)]
    drawn = [budgets(everybody, random.Random(n))[0] for n in range(600)]
    limited = [cost for cost in drawn if cost < math.inf]
    assert 360 < len(limited) < 440
    assert all(8 <= cost <= 64 for cost in limited)
    assert 0.4 < sum(cost < math.sqrt(8 * 64) for cost in limited) / len(limited) < 0.6
    assert budgets([], random.Random(0)) == ()


def test_one_of_several_costs_is_limited_at_a_time() -> None:
    everybody = [Contender({}, (1.0, 5.0)), Contender({}, (4.0, 0.0))]
    drawn = [budgets(everybody, random.Random(n)) for n in range(60)]
    assert {sum(cost < math.inf for cost in two) for two in drawn} == {0, 1}


def test_what_is_at_work_is_not_asked_about_twice() -> None:
    trained = [contender(8, 0.05, (2, 0.6)), contender(64, 0.05, (2, 0.8), (1, 0.85), (0, 0.9))]
    alone = prospects(ENCODING, [*trained, contender(40, 0.1), contender(48, 0.1)], (math.inf,), 0)
    busy = contender(48, 0.1, at_work=2)
    beside = prospects(ENCODING, [*trained, contender(40, 0.1), busy], (math.inf,), 0)
    assert beside[2] < alone[2]


def test_the_first_of_equals_is_the_best() -> None:
    assert best_of(np.array([0.5, 0.7, 0.7]), [0, 1, 2]) == 1
    assert best_of(np.array([0.5]), []) is None
