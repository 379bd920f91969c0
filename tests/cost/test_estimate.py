from __future__ import annotations

import dataclasses

import pytest

from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.estimate import Guess
from lepton_automl.cost.latency_model import estimate
from lepton_automl.search.space import draw, loader
from tests.helpers.nets import random_arch

PRICES = estimate(targets.load())


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_a_guess_is_exact_where_it_can_be_and_close_in_bytes(name: str) -> None:
    found, guess = loader.load(name), Guess(0, None)
    for seed in range(5):
        arch = found.example_arch(draw.RandomTrial(seed))
        guessed, true = guess(arch), static_cost(arch, 64)
        assert dataclasses.replace(guessed, size_bytes=0) == dataclasses.replace(true, size_bytes=0)
        assert guessed.size_bytes == pytest.approx(true.size_bytes, abs=150)
        assert guessed.latency_ms is None


def test_what_was_found_corrects_the_next_guess_until_it_is_forgotten() -> None:
    guess, arch, other = Guess(100, PRICES), random_arch(1), random_arch(2)
    first, second = guess(arch), guess(other)
    assert first.latency_ms is not None
    assert second.latency_ms is not None
    found = dataclasses.replace(
        first, size_bytes=first.size_bytes + 50, latency_ms=3 * first.latency_ms
    )
    guess.learn(arch, found)
    assert guess(arch).size_bytes == found.size_bytes
    assert guess(arch).latency_ms == pytest.approx(found.latency_ms)
    assert guess(other).size_bytes == second.size_bytes + 50
    assert guess(other).latency_ms == pytest.approx(3 * second.latency_ms)
    guess.forget()
    assert guess(other) == second
