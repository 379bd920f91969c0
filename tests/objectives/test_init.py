from __future__ import annotations

import pytest

from lepton_automl import plugins
from lepton_automl.cost import Cost
from lepton_automl.errors import ConfigError
from lepton_automl.objectives import load

COST = Cost(12_000, 9_000, 9_600, 450_000, 3_200, 0.021, 0.020, 0.022)


@pytest.mark.parametrize("name", plugins.names("objectives"))
def test_every_objective_has_a_direction_a_unit_and_a_figure(name: str) -> None:
    objective = load(name)
    assert objective.direction in {"maximize", "minimize"}
    assert objective.unit
    assert objective.value(0.9, COST) > 0


def test_the_shipped_ones_read_what_their_names_say() -> None:
    assert load("accuracy").value(0.75, COST) == 0.75
    assert load("accuracy").value(None, COST) == 0.0
    assert load("latency_ms").value(None, COST) == 0.021
    assert load("size_bytes").value(None, COST) == 12_000
    assert load("macs").value(None, COST) == 450_000
    assert load("peak_ram_bytes").value(None, COST) == 3_200
    assert [n for n in plugins.names("objectives") if load(n).needs_training] == ["accuracy"]
    assert [n for n in plugins.names("objectives") if load(n).needs_timing] == ["latency_ms"]


def test_an_unmeasured_latency_is_a_bug_not_a_zero() -> None:
    with pytest.raises(ValueError, match="not measured"):
        load("latency_ms").value(0.9, Cost(1, 1, 1, 1, 1))


def test_an_unknown_objective_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load("size_byte")
    assert "size_bytes" in caught.value.fix
