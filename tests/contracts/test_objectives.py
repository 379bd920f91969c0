from __future__ import annotations

import pytest

from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ConfigError
from lepton_automl.search.objectives import load, names

COST = Cost(12_000, 9_000, 9_600, 450_000, 3_200, 0.021, 0.020, 0.022)


@pytest.mark.parametrize("name", names())
def test_every_objective_has_a_direction_a_unit_and_a_figure(name: str) -> None:
    objective = load(name)
    assert objective.direction in {"maximize", "minimize"}
    assert objective.unit
    assert objective.value(0.9, COST) > 0


def test_only_accuracy_needs_training_and_only_latency_a_clock() -> None:
    assert [n for n in names() if load(n).needs_training] == ["accuracy"]
    assert [n for n in names() if load(n).needs_timing] == ["latency_ms"]


def test_an_unknown_objective_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load("size_byte")
    assert "size_bytes" in caught.value.fix
