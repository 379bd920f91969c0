from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.search.encoding import Encoding
from lepton_automl.search.surrogate import (
    EARLY_OWN,
    JOINT,
    LEVEL,
    NOISE,
    OWN,
    RUNG_LEVEL,
    Seen,
    Surrogate,
)
from lepton_automl.space import Range

ENCODING = Encoding({"a": Range(0, 4, 1), "b": Range(0, 4, 1)})
POINTS = [{"a": a, "b": b} for a in range(5) for b in range(5)]
ROWS = ENCODING.rows(POINTS)


def truth(row: int, left: int = 0) -> float:
    """Error halves with `a`, is best at b = 2, and is larger at earlier rungs."""
    point = POINTS[row]
    return 1 - 0.3 * 0.8 ** point["a"] * (1 + 0.1 * (point["b"] - 2) ** 2) * 1.5**left


def seen(*which: tuple[int, int], samples: int = 10_000) -> list[Seen]:
    return [Seen(row, left, truth(row, left), samples) for row, left in which]


def test_expectations_are_those_of_the_joint_normal_distribution() -> None:
    """Against the textbook's conditional, with the covariance written out a second time."""
    known = seen((0, 2), (0, 1), (7, 2), (18, 2), (18, 0))
    model = Surrogate(ENCODING, ROWS, known)
    single, joint, same = ENCODING.likeness(ROWS, ROWS)
    s, early = model._scale, model._early

    def covariance(i: int, li: int, j: int, lj: int) -> float:
        lasting = single[i, j] + JOINT * joint[i, j] + OWN * same[i, j]
        passing = min(li, lj) * (early * single[i, j] + EARLY_OWN * same[i, j])
        return s * s * (lasting + passing) + LEVEL + RUNG_LEVEL * (li == lj)

    k = np.array([[covariance(a.row, a.left, b.row, b.left) for b in known] for a in known])
    k += np.diag([one.variance + (NOISE * s) ** 2 for one in known])
    values = np.array([one.value for one in known])
    for row in (0, 3, 24):
        cross = np.array([covariance(row, 0, b.row, b.left) for b in known])
        expected = values.mean() + cross @ np.linalg.inv(k) @ (values - values.mean())
        assert model.at_end()[row] == pytest.approx(expected, rel=1e-6)


def test_improvement_is_the_closed_form_and_needs_room() -> None:
    known = seen((12, 2), (12, 1), (12, 0), (3, 2))
    model = Surrogate(ENCODING, ROWS, known)
    improvement = np.exp(model.improvement(12))
    rng, row = np.random.default_rng(0), 20
    mean = model.at_end()
    variance = model._difference_before(12) - ((model._ends - model._ends[12]) ** 2).sum(1)
    draws = rng.normal(mean[row] - mean[12], np.sqrt(variance[row]), 400_000)
    assert improvement[row] == pytest.approx(np.maximum(draws, 0).mean(), rel=0.02)
    assert improvement[12] < improvement[row]


def test_main_effects_are_found_from_few_first_rungs() -> None:
    rows = [0, 6, 12, 18, 24, 4, 20, 9, 15]
    model = Surrogate(ENCODING, ROWS, seen(*((row, 2) for row in rows), (12, 0)))
    best = int(np.argmax(model.at_end()))
    assert POINTS[best]["a"] == 4
    assert POINTS[best]["b"] in (1, 2, 3)


def test_few_validation_samples_count_less() -> None:
    lucky = Seen(0, 0, 0.99, 20)
    few = Surrogate(ENCODING, ROWS, [*seen((24, 0), (12, 0)), lucky])
    many = Surrogate(ENCODING, ROWS, [*seen((24, 0), (12, 0)), Seen(0, 0, 0.99, 20_000)])
    assert few.at_end()[0] < many.at_end()[0]


def test_a_training_at_work_leaves_expectations_and_takes_doubt() -> None:
    model = Surrogate(ENCODING, ROWS, seen((12, 2), (3, 2), (3, 0)))
    supposed = model.supposing([(20, 2)])
    assert np.allclose(model.at_end(), supposed.at_end(), atol=1e-6)
    assert supposed.improvement(3)[20] < model.improvement(3)[20]
