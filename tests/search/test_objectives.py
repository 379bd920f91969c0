from __future__ import annotations

import pytest

from lepton_automl.cost.cost import Cost
from lepton_automl.search.objectives import load

COST = Cost(12_000, 9_000, 9_600, 450_000, 3_200, 0.021, 0.020, 0.022)


def test_accuracy_is_that_of_the_last_training_and_0_before() -> None:
    assert load("accuracy").value(0.75, COST) == 0.75
    assert load("accuracy").value(None, COST) == 0.0
    assert load("accuracy").direction == "maximize"
    assert load("accuracy").needs_training


def test_costs_are_those_of_the_file() -> None:
    assert load("size_bytes").value(None, COST) == 12_000  # Not of the weights alone.
    assert load("macs").value(None, COST) == 450_000
    assert load("peak_ram_bytes").value(None, COST) == 3_200


def test_a_missing_latency_is_an_error_and_not_0() -> None:
    assert load("latency_ms").value(None, COST) == 0.021
    assert load("latency_ms").needs_timing
    with pytest.raises(ValueError, match="not measured"):
        load("latency_ms").value(0.9, Cost(1, 1, 1, 1, 1))
