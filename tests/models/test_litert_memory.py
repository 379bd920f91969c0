from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.models.litert_export.lowering import int8_litert
from lepton_automl.models.litert_export.memory import Buffer, arena_bytes, buffers_of, planned_bytes
from lepton_automl.models.random_weights import random_net
from tests.helpers.litert import micro, schema
from tests.helpers.nets import random_arch, random_samples

ALL = ("relu", "relu6", "hswish", "silu", "none")
SHAPES = ((16, 16, 3), (12, 12, 1), (15, 11, 3), (40, 2))


@pytest.mark.parametrize("seed", range(16))
def test_the_arena_is_what_a_microcontroller_plans(seed):
    schema()
    arch = random_arch(seed, input=SHAPES[seed % 4], activations=ALL)
    file = int8_litert(random_net(arch, 64, seed), list("abcde"))
    assert arena_bytes(file) == micro(file, random_samples(arch, 1, seed))[1]


def test_buffers_that_are_never_held_together_share_their_place():
    assert planned_bytes([Buffer(100, 0, 1), Buffer(60, 2, 3)]) == 112
    assert planned_bytes([Buffer(100, 0, 2), Buffer(60, 2, 3)]) == 112 + 64
    assert planned_bytes([]) == 0


def test_no_plan_is_below_what_is_held_at_once():
    rng = np.random.default_rng(0)
    for _ in range(200):
        first = rng.integers(0, 12, 15)
        last = first + rng.integers(0, 5, 15)
        buffers = [
            Buffer(int(s), int(a), int(z))
            for s, a, z in zip(16 * rng.integers(1, 40, 15), first, last, strict=True)
        ]
        held = max(sum(b.size for b in buffers if b.first <= n <= b.last) for n in range(17))
        assert held <= planned_bytes(buffers) <= sum(b.size for b in buffers)


def test_a_value_is_held_from_its_operator_to_its_last_reader():
    # input 0 -> 1 -> 2, then 1 and 2 -> 4; 3 is a constant.
    operators = [([0, 3], [1]), ([1], [2]), ([1, 2], [4])]
    found = buffers_of([10, 20, 30, 99, 40], operators, [0])
    assert found == [Buffer(10, -1, 0), Buffer(20, 0, 2), Buffer(30, 1, 2), Buffer(40, 2, 2)]
