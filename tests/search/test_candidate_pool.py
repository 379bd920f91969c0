from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lepton_automl.search.sampler.candidate_pool import (
    MAX_DRAWS,
    NEAREST,
    NEW_PER_TURN,
    CandidateEstimate,
    CandidatePool,
    Conditions,
    even_draw,
)
from lepton_automl.search.seeds import seed_of

SPACE: Mapping[str, BaseDistribution] = {
    "kind": CategoricalDistribution(("plain", "odd")),
    "only": IntDistribution(0, 5),
    "width": IntDistribution(8, 128, step=8),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "share": FloatDistribution(0.0, 1.0),
    "log": IntDistribution(1, 1000, log=True),
    "step": FloatDistribution(0.0, 0.9, step=0.3),
}


def estimate(params: Mapping[str, Any]) -> CandidateEstimate | None:
    """Width 8 cannot be built, and only odd ones have `only`."""
    if params["width"] == 8:
        return None
    used = {k: v for k, v in params.items() if k != "only" or params["kind"] == "odd"}
    return CandidateEstimate(used)


def drawn(pool: CandidatePool, turn: int, best: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    return [c.params for c in pool(SPACE, turn, best, estimate)]


def pool(seed: int = 0, even: int = 40, neighbors: int = 12) -> CandidatePool:
    return CandidatePool(seed, even, neighbors)


BEST: dict[str, Any] = {
    **{"kind": "odd", "only": 3, "width": 64, "lr": 0.01, "share": 0.5, "log": 30, "step": 0.3}
}


def test_candidates_follow_from_seed_turn_and_best_points_alone() -> None:
    used = pool()
    for turn in range(5):
        drawn(used, turn, [BEST])
    found = [drawn(one, 5, [BEST]) for one in (used, pool(), pool(1))]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_turn_draws_few_new_points() -> None:
    used = pool()
    seen = {str(p) for turn in range(20) for p in drawn(used, turn, [])}
    assert len({str(p) for p in drawn(used, 20, [])} - seen) <= 2 * NEW_PER_TURN
    assert len(seen) > 40 + 10 * NEW_PER_TURN


def test_points_that_are_alike_count_once() -> None:
    two = {"a": CategoricalDistribution((1, 2, 3)), "b": CategoricalDistribution(("x", "y"))}
    found = CandidatePool(0, 40, 0)(two, 0, [], CandidateEstimate)
    assert sorted(str(sorted(c.params.items())) for c in found) == sorted(
        str(sorted({"a": a, "b": b}.items())) for a in (1, 2, 3) for b in "xy"
    )


def test_where_few_are_feasible_more_are_drawn_up_to_a_bound() -> None:
    asked = []

    def wide(params: Mapping[str, Any]) -> CandidateEstimate:
        asked.append(params)
        return CandidateEstimate(params, violation=max(0, params["width"] - 16))

    found = CandidatePool(0, 20, 0)(SPACE, 0, [], wide)
    assert len(found) == 20
    assert all(c.params["width"] <= 16 for c in found)
    assert 40 < len(asked) <= MAX_DRAWS * 20
    asked.clear()
    assert len(CandidatePool(0, 100, 0)(SPACE, 0, [], lambda p: CandidateEstimate(p, {}, 1.0))) == (
        NEAREST
    )


@pytest.mark.parametrize("name", SPACE)
def test_every_value_is_one_of_its_distribution_and_all_of_its_range_is_drawn(name: str) -> None:
    distribution = SPACE[name]
    values = [even_draw(SPACE, seed)[name] for seed in range(400)]
    assert all(distribution._contains(distribution.to_internal_repr(v)) for v in values)
    units = [
        candidate[name]
        for seed in range(60)
        for candidate in (c.drawn for c in pool(seed, 1, 12)(SPACE, 0, [BEST], estimate))
    ]
    assert all(distribution._contains(distribution.to_internal_repr(v)) for v in units)
    assert len(set(values)) >= min(4, len(getattr(distribution, "choices", range(4))))


def test_what_cannot_be_built_is_left_out_and_only_what_a_trial_has_is_named() -> None:
    for params in drawn(pool(), 0, []):
        assert params["width"] != 8
        assert ("only" in params) == (params["kind"] == "odd")


def test_neighbours_differ_from_a_best_point_in_few_parameters() -> None:
    near = drawn(pool(even=0), 0, [BEST])
    changed = [sum(BEST.get(k) != p.get(k) for k in {*BEST, *p}) for p in near]
    assert max(changed) <= 3  # A kind that is changed takes its own parameter along.
    assert any(changed)


def test_where_nothing_is_feasible_the_nearest_are_kept() -> None:
    def by_width(params: Mapping[str, Any]) -> CandidateEstimate:
        return CandidateEstimate(params, {}, params["width"] / 8)

    found = pool()(SPACE, 0, [], by_width)
    assert len(found) == NEAREST
    everything = [even_draw(SPACE, seed_of(0, "even", n))["width"] for n in range(40 * MAX_DRAWS)]
    widths = [c.params["width"] for c in found]
    assert widths == sorted(widths)
    assert max(widths) <= sorted(everything)[len(everything) // 2]


def test_conditions_are_learned_through_several_levels() -> None:
    def trial(seed: int) -> dict[str, Any]:
        point = dict(even_draw(SPACE, seed))
        if point["kind"] == "plain":
            del point["only"]
        elif point["only"] < 3:
            del point["step"]
        if point["kind"] == "plain":
            del point["step"]
        return point

    trials = [trial(seed) for seed in range(60)]
    learned = Conditions.of(trials)
    for seed in range(100, 200):
        assert learned.present(even_draw(SPACE, seed)) == trial(seed)


def test_a_parameter_that_no_other_one_explains_is_taken_to_be_there() -> None:
    trials = [{"a": 1, "b": 1}, {"a": 1}, {"a": 2, "b": 2}]
    assert Conditions.of(trials).present({"a": 1, "b": 1}) == {"a": 1, "b": 1}


def test_seeds_are_small_stable_and_different() -> None:
    assert seed_of(0, 1) == seed_of(0, 1) != seed_of(1, 0)
    assert all(0 <= seed_of(n) < 2**31 for n in range(100))
