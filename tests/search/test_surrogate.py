from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lepton_automl.search.sampler.candidate_pool import even_draw
from lepton_automl.search.sampler.surrogate import (
    EARLY_OWN_VARIANCE,
    JOINT_VARIANCE,
    LEVEL_VARIANCE,
    NOISE,
    OWN_VARIANCE,
    RUNG_LEVEL_VARIANCE,
    Encoding,
    Result,
    Surrogate,
)

ENCODING = Encoding({"a": IntDistribution(0, 4), "b": IntDistribution(0, 4)})
POINTS = [{"a": a, "b": b} for a in range(5) for b in range(5)]
ROWS = ENCODING.rows(POINTS)


def truth(row: int, left: int = 0) -> float:
    """Error halves with `a`, is best at b = 2, and is larger at earlier rungs."""
    point = POINTS[row]
    return 1 - 0.3 * 0.8 ** point["a"] * (1 + 0.1 * (point["b"] - 2) ** 2) * 1.5**left


def result(row: int, left: int, accuracy: float, samples: int = 10_000) -> Result:
    """Minus the logarithm of the error, with the variance of a share of so many samples."""
    error = 1 - accuracy
    return Result(row, left, -math.log(error), 0.5 * accuracy / (samples * error))


def seen(*which: tuple[int, int]) -> list[Result]:
    return [result(row, left, truth(row, left)) for row, left in which]


def test_expectations_are_those_of_the_joint_normal_distribution() -> None:
    """Against the textbook's conditional, with the covariance written out a second time."""
    known = seen((0, 2), (0, 1), (7, 2), (18, 2), (18, 0))
    model = Surrogate(ENCODING, ROWS, known)
    single, joint, same = ENCODING.similarity(ROWS, ROWS)
    s, early = model._scale, model._early

    def covariance(i: int, li: int, j: int, lj: int) -> float:
        lasting = single[i, j] + JOINT_VARIANCE * joint[i, j] + OWN_VARIANCE * same[i, j]
        passing = min(li, lj) * (early * single[i, j] + EARLY_OWN_VARIANCE * same[i, j])
        return s * s * (lasting + passing) + LEVEL_VARIANCE + RUNG_LEVEL_VARIANCE * (li == lj)

    k = np.array(
        [[covariance(a.row, a.rungs_left, b.row, b.rungs_left) for b in known] for a in known]
    )
    k += np.diag([one.variance + (NOISE * s) ** 2 for one in known])
    values = np.array([one.value for one in known])
    for row in (0, 3, 24):
        cross = np.array([covariance(row, 0, b.row, b.rungs_left) for b in known])
        expected = values.mean() + cross @ np.linalg.inv(k) @ (values - values.mean())
        assert model.mean()[row] == pytest.approx(expected, rel=1e-6)


def test_shares_add_up_to_the_expected_improvement_of_all_together() -> None:
    """Of one point alone it is the closed form (Mockus 1978), and points add up."""
    model = Surrogate(ENCODING, ROWS, seen((12, 2), (12, 1), (12, 0), (3, 2)))
    shares = [model.improvement_shares([row], [12], seed)[0] for row in (20,) for seed in range(40)]
    both = model.mean()[[20, 12]]
    ends = model._ends[[20, 12]]
    zero = np.zeros(2, np.int64)
    rows = np.array([20, 12])
    covariance = model._kernel(rows, zero, rows, zero, model._scale, model._early) - ends @ ends.T
    deviation = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    u = (both[0] - both[1]) / deviation
    density = math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
    below = 0.5 * math.erfc(-u / math.sqrt(2))
    assert np.mean(shares) == pytest.approx(deviation * (u * below + density), rel=0.05)
    together = model.improvement_shares([20, 21, 22], [12], 0)
    assert together.sum() >= model.improvement_shares([20], [12], 0).sum() * 0.9
    assert (together >= 0).all()


def test_a_point_that_others_are_like_has_a_smaller_share() -> None:
    model = Surrogate(ENCODING, ROWS, seen((12, 2), (12, 1), (12, 0)))
    alone = model.improvement_shares([24, 4], [12], 0)
    beside = model.improvement_shares([24, 4, 23, 19], [12], 0)
    assert beside[0] / beside[1] < alone[0] / alone[1]


def test_the_deviation_shrinks_as_results_come() -> None:
    models = [
        Surrogate(ENCODING, ROWS, [*seen((12, 2), (12, 1)), *more])
        for more in ([], seen((20, 2)), seen((20, 2), (20, 1)))
    ]
    doubts = [model.deviation()[20] for model in models]
    assert doubts[0] > doubts[1] > doubts[2] > 0


def test_main_effects_are_found_from_few_first_rungs() -> None:
    rows = [0, 6, 12, 18, 24, 4, 20, 9, 15]
    model = Surrogate(ENCODING, ROWS, seen(*((row, 2) for row in rows), (12, 0)))
    best = int(np.argmax(model.mean()))
    assert POINTS[best]["a"] == 4
    assert POINTS[best]["b"] in (1, 2, 3)


def test_few_validation_samples_count_less() -> None:
    lucky = result(0, 0, 0.99, 20)
    few = Surrogate(ENCODING, ROWS, [*seen((24, 0), (12, 0)), lucky])
    many = Surrogate(ENCODING, ROWS, [*seen((24, 0), (12, 0)), result(0, 0, 0.99, 20_000)])
    assert few.mean()[0] < many.mean()[0]


def test_a_pending_training_leaves_the_mean_and_lowers_the_deviation() -> None:
    model = Surrogate(ENCODING, ROWS, seen((12, 2), (3, 2), (3, 0)))
    supposed = model.supposing([(20, 2)])
    assert np.allclose(model.mean(), supposed.mean(), atol=1e-6)
    doubts = [m.deviation()[20] for m in (model, supposed)]
    assert doubts[1] < doubts[0]


SPACE = {
    "kind": CategoricalDistribution(("conv", "residual", "mbconv")),
    "out": IntDistribution(8, 40, step=8),
    "lr": CategoricalDistribution((0.1, 0.05, 0.2)),
}


def similarity(a: dict[str, object], b: dict[str, object]) -> tuple[float, float, float]:
    encoding = Encoding(SPACE)
    single, joint, same = encoding.similarity(encoding.rows([a]), encoding.rows([b]))
    return float(single[0, 0]), float(joint[0, 0]), float(same[0, 0])


def test_a_point_is_wholly_like_itself() -> None:
    point = {"kind": "conv", "out": 16, "lr": 0.05}
    assert similarity(point, point) == (1.0, 1.0, 1.0)


def test_numbers_are_more_alike_the_nearer_they_are_and_names_only_if_equal() -> None:
    point = {"kind": "conv", "out": 8, "lr": 0.05}
    near, far = (similarity(point, point | {"out": out}) for out in (16, 40))
    assert near[0] > far[0] > 2 / 3
    assert near[1] > far[1]
    assert near[2] == far[2] == 0.0
    names = [similarity(point, point | {"kind": kind})[0] for kind in ("residual", "mbconv")]
    assert names[0] == names[1]
    assert abs(names[0] - 2 / 3) < 1e-12


def test_listed_numbers_count_by_size_not_by_place_in_the_list() -> None:
    point = {"kind": "conv", "out": 8, "lr": 0.05}
    assert similarity(point, point | {"lr": 0.1})[0] > similarity(point, point | {"lr": 0.2})[0]


def test_what_a_point_does_not_have_is_like_nothing_but_its_absence() -> None:
    without, with_it = {"kind": "conv", "out": 8}, {"kind": "conv", "out": 8, "lr": 0.05}
    assert similarity(without, without) == (1.0, 1.0, 1.0)
    assert abs(similarity(without, with_it)[0] - 2 / 3) < 1e-12
    assert similarity(without, with_it)[2] == 0.0


def test_similarities_are_covariances() -> None:
    encoding, rng = Encoding(SPACE), np.random.default_rng(0)
    points = [even_draw(SPACE, int(rng.integers(1000))) for _ in range(40)]
    rows = encoding.rows(points)
    for part in encoding.similarity(rows, rows):
        assert np.allclose(part, part.T)
        assert np.linalg.eigvalsh(part).min() > -1e-9


@pytest.mark.parametrize(
    ("distribution", "near", "far"),
    [
        (FloatDistribution(0.0, 1.0), (0.2, 0.3), (0.2, 0.9)),
        (FloatDistribution(1e-4, 1.0, log=True), (1e-4, 1e-3), (1e-2, 1.0)),
        (IntDistribution(1, 1000, log=True), (1, 8), (3, 300)),
        (IntDistribution(0, 10_000), (10, 800), (10, 4000)),
        (FloatDistribution(0.0, 3.0, step=0.5), (0.5, 1.0), (0.5, 2.0)),
    ],
)
def test_every_kind_of_number_is_similar_to_its_neighbours_on_its_own_scale(
    distribution: FloatDistribution, near: tuple[float, float], far: tuple[float, float]
) -> None:
    encoding = Encoding({"x": distribution})

    def single(pair: tuple[float, float]) -> float:
        return float(encoding.similarity(*(encoding.rows([{"x": x}]) for x in pair))[0][0, 0])

    assert 1.0 > single(near) > single(far)


def test_a_value_outside_of_the_range_counts_like_its_end() -> None:
    encoding = Encoding({"x": FloatDistribution(0.0, 1.0)})
    assert (encoding.rows([{"x": 5.0}]) == encoding.rows([{"x": 1.0}])).all()


def test_a_choice_that_the_distribution_lacks_counts_as_absent() -> None:
    encoding = Encoding({"x": CategoricalDistribution(("a", "b"))})
    assert (encoding.rows([{"x": "c"}]) == encoding.rows([{}])).all()
