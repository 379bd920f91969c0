from __future__ import annotations

from lepton_automl.cost.cost import Cost
from lepton_automl.search.objectives import load

COST = Cost(12_000, 9_000, 9_600, 450_000, 3_200, 0.021, 0.020, 0.022)


def test_accuracy_is_the_share_so_far_and_nothing_before_training() -> None:
    assert load("accuracy").value(0.75, COST) == 0.75
    assert load("accuracy").value(None, COST) == 0.0
    assert load("accuracy").direction == "maximize"
    assert load("accuracy").needs_training
