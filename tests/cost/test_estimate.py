from __future__ import annotations

import dataclasses

import pytest

from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.estimate import CostEstimator
from lepton_automl.cost.latency_model import estimate
from lepton_automl.search.space import draw, loader
from tests.helpers.nets import random_arch

LATENCY_MODEL = estimate(targets.load())


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_macs_and_memory_are_exact_and_bytes_close(name: str) -> None:
    space, estimator = loader.load(name), CostEstimator(0, None)
    for seed in range(5):
        arch = space.example_arch(draw.RandomTrial(seed))
        estimated, true = estimator(arch), static_cost(arch, 64)
        assert dataclasses.replace(estimated, size_bytes=0) == dataclasses.replace(
            true, size_bytes=0
        )
        assert estimated.size_bytes == pytest.approx(true.size_bytes, abs=150)
        assert estimated.latency_ms is None


def test_an_exact_cost_corrects_the_next_estimates_until_a_reset() -> None:
    estimator, arch, other = CostEstimator(100, LATENCY_MODEL), random_arch(1), random_arch(2)
    first, second = estimator(arch), estimator(other)
    assert first.latency_ms is not None
    assert second.latency_ms is not None
    exact = dataclasses.replace(
        first, size_bytes=first.size_bytes + 50, latency_ms=3 * first.latency_ms
    )
    estimator.correct(arch, exact)
    assert estimator(arch).size_bytes == exact.size_bytes
    assert estimator(arch).latency_ms == pytest.approx(exact.latency_ms)
    assert estimator(other).size_bytes == second.size_bytes + 50
    assert estimator(other).latency_ms == pytest.approx(3 * second.latency_ms)
    estimator.reset()
    assert estimator(other) == second
