from __future__ import annotations

import pytest

from lepton_automl.cost.cost import Cost
from lepton_automl.search.objectives import load

COST = Cost(12_000, 9_000, 9_600, 450_000, 3_200, 0.021, 0.020, 0.022)


def test_an_unmeasured_latency_is_a_bug_not_a_zero() -> None:
    assert load("latency_ms").value(None, COST) == 0.021
    assert load("latency_ms").needs_timing
    with pytest.raises(ValueError, match="not measured"):
        load("latency_ms").value(0.9, Cost(1, 1, 1, 1, 1))
