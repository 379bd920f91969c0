"""Feature maps alive, counted by hand and by walking a net backwards."""

from __future__ import annotations

import pytest

from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.cost.memory_steps import memory_steps, peak_step
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.memory_plan import steps
from tests.helpers.nets import random_arch


def test_a_sum_is_written_over_an_input_and_the_skip_stays_alive():
    graph = chain((4, 4, 1), [Stem(2), Residual(2), Head()], 3).graph
    found = {step.name: (dict(step.alive), step.is_in_place) for step in memory_steps(graph)}
    assert found[""] == ({"input": 16}, False)
    assert found["0/conv"] == ({"input": 16, "0/conv": 32}, False)
    assert found["1/second"] == ({"0/conv": 32, "1/first": 32, "1/second": 32}, False)
    alive, in_place = found["1/add"]
    assert in_place
    assert sum(alive.values()) == 64
    assert peak_step(memory_steps(graph)).name == "1/second"


@pytest.mark.parametrize("seed", range(12))
def test_every_value_is_alive_from_its_making_to_its_last_reader(seed):
    graph = random_arch(seed).graph
    order, found = steps(graph), memory_steps(graph)[1:]
    for number, (op, step) in enumerate(zip(order, found, strict=True)):
        made = {graph.input.name} | {each.y.name for each in order[: number + 1]}
        later = {v.name for each in order[number + 1 :] for v in each.inputs}
        read = {v.name for v in op.inputs}
        wanted = {name for name in made if name in later | read or name == op.y.name}
        wanted -= {graph.output.name}
        given_up = wanted - dict(step.alive).keys()
        assert dict(step.alive).keys() <= wanted
        assert len(given_up) == step.is_in_place
        assert given_up <= read - later


@pytest.mark.parametrize("seed", range(12))
def test_the_peak_is_the_block_that_the_c_files_need(seed):
    graph = random_arch(seed).graph
    assert peak_step(memory_steps(graph)).size == peak_ram_bytes(graph)
