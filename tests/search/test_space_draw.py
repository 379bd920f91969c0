from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.search.space.draw import RandomTrial, suggest
from lepton_automl.search.space.parameters import Choice, Range


@given(st.integers(0, 99))
def test_a_draw_is_one_of_the_values_and_stays_the_same(seed):
    for parameter in (Choice((1, "a", 2.5)), Range(8, 40, 8), Range(0.1, 0.5, 0.1)):
        trial = RandomTrial(seed)
        value = suggest(trial, "x", parameter)
        assert any(
            value == v or abs(value - v) < 1e-9 for v in parameter.values if type(v) is type(value)
        )
        assert suggest(trial, "x", parameter) == value == suggest(RandomTrial(seed), "x", parameter)


def test_given_values_are_taken():
    assert suggest(RandomTrial(0, {"x": 24}), "x", Range(8, 40, 8)) == 24


def test_draws_reach_every_value():
    parameter = Range(8, 40, 8)
    assert {suggest(RandomTrial(seed), "x", parameter) for seed in range(60)} == set(
        parameter.values
    )


def test_a_fixed_parameter_is_not_suggested():
    assert suggest(None, "x", Choice((3,))) == 3
    assert suggest(None, "x", Range(3, 3, 1)) == 3
