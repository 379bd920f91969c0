from __future__ import annotations

import pytest

from lepton_automl.models.arch import chain
from lepton_automl.models.graph import Add, Gate, Mul
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.memory_plan import Swish, plan_memory, steps
from tests.helpers.nets import random_arch

ANY = ("relu", "relu6", "hswish", "silu", "none")


def lifetimes(graph):
    """First and last step of each value: written, read last."""
    order = steps(graph)
    found = {graph.input.name: (0, 0, graph.input.size)}
    for at, step in enumerate(order):
        found[step.y.name] = (at, at, step.y.size)
        for value in step.inputs:
            first, _, size = found[value.name]
            found[value.name] = (first, at, size)
    del found[graph.output.name]
    return found


@pytest.mark.parametrize("seed", range(25))
def test_values_that_are_needed_at_once_never_overlap_and_no_byte_is_wasted(seed):
    shape = ((16, 16, 3), (12, 14, 5), (37, 6))[seed % 3]
    graph = random_arch(seed, input=shape, activations=ANY).graph
    plan, live = plan_memory(graph), lifetimes(graph)
    order = steps(graph)
    for at, step in enumerate(order):
        spans = {
            name: (plan.offsets[name], plan.offsets[name] + size)
            for name, (first, last, size) in live.items()
            if first <= at <= last
        }
        may_overwrite = isinstance(step, (Add, Mul, Gate, Swish))
        for one in spans:
            for other in spans:
                (a, b), (c, d) = spans[one], spans[other]
                if one == other or b <= c or d <= a:
                    continue
                # Only an elementwise step writes over an input, all of it, that ends here.
                assert may_overwrite
                assert step.y.name in (one, other)
                read = one if other == step.y.name else other
                assert (a, b) == (c, d)
                assert live[read][1] == at
                assert read != graph.input.name
    largest = max(
        sum(
            size
            for name, (first, last, size) in live.items()
            if first <= at <= last
            and not (name == step.y.name and _in_place(step, live, at, graph))
        )
        for at, step in enumerate(order)
    )
    assert plan.size == largest


def _in_place(step, live, at, graph):
    return isinstance(step, (Add, Mul, Gate, Swish)) and any(
        live[v.name][1] == at and v.size == step.y.size and v.name != graph.input.name
        for v in step.inputs
    )


def test_a_swish_is_one_step_and_a_gate_of_other_values_is_not():
    arch = chain((8, 8, 3), [Stem(4, activation="silu"), Head()], 5)
    assert [type(step).__name__ for step in steps(arch.graph)] == [
        *("Conv", "Swish", "GlobalPool", "Linear")
    ]


@pytest.mark.parametrize("seed", range(0, 25, 3))
@pytest.mark.parametrize("scratch", [5, 900, 100_000])
def test_scratch_memory_lies_beside_the_input_and_costs_only_what_is_missing(seed, scratch):
    graph = random_arch(seed, input=(16, 16, 1), activations=ANY).graph
    plan, without = plan_memory(graph, scratch), plan_memory(graph)
    start, size = plan.offsets[graph.input.name], graph.input.size
    assert plan.scratch + scratch <= start or start + size <= plan.scratch
    assert plan.size == max(without.size, scratch + size)
    assert max(plan.scratch + scratch, start + size) <= plan.size
