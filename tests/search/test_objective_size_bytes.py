from __future__ import annotations

from lepton_automl.cost.cost import Cost
from lepton_automl.search.objectives import load

COST = Cost(12_000, 9_000, 9_600, 450_000, 3_200, 0.021, 0.020, 0.022)


def test_the_size_is_that_of_the_file_not_of_the_weights() -> None:
    assert load("size_bytes").value(None, COST) == 12_000
