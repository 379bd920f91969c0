"""Averages of weights against the same written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lepton_automl.averaging import EMA_SHARE, LOOKAHEAD_DECAY, LOOKAHEAD_EVERY, Average

STEPS = 103


def path(seed=0):
    """Moves of a weight of 3 numbers, one a batch."""
    return np.random.default_rng(seed).normal(size=(STEPS, 3))


def run(kind, start=0, average=None, weight=None):
    weight = torch.zeros(3, dtype=torch.float64) if weight is None else weight
    average = average or Average(kind, [weight], STEPS)
    for step in range(start, STEPS):
        weight += torch.from_numpy(path()[step])
        average.follow(step)
    return weight.numpy()


def test_none_leaves_the_weights_alone():
    assert np.allclose(run("none"), path().sum(0))


def test_ema_trails_behind_and_is_what_is_left():
    weight, slow = np.zeros(3), np.zeros(3)
    for step, move in enumerate(path()):
        weight = weight + move
        reach = max(1.0, min(EMA_SHARE * STEPS, (step + 1) / 2))
        slow = slow + (weight - slow) / reach
    assert np.allclose(run("ema"), slow)


def test_an_average_of_weights_that_stand_still_is_these_weights():
    for kind in ("ema", "lookahead"):
        weight = torch.full((4,), 3.0)
        average = Average(kind, [weight], STEPS)
        for step in range(STEPS):
            average.follow(step)
        assert torch.allclose(weight, torch.full((4,), 3.0))


def test_lookahead_sets_the_weights_back_more_and_more():
    weight, slow = np.zeros(3), np.zeros(3)
    for step, move in enumerate(path()):
        weight = weight + move
        if step + 1 == STEPS:
            weight = slow
        elif (step + 1) % LOOKAHEAD_EVERY == 0:
            kept = LOOKAHEAD_DECAY * ((step + 1) / STEPS) ** 3
            slow = kept * slow + (1 - kept) * weight
            weight = slow
    assert np.allclose(run("lookahead"), weight)


@pytest.mark.parametrize("kind", ["none", "ema", "lookahead"])
@pytest.mark.parametrize("stop", [1, 50, 98])
def test_restored_half_way_it_ends_the_same(kind, stop):
    weight = torch.zeros(3, dtype=torch.float64)
    first = Average(kind, [weight], STEPS)
    for step in range(stop):
        weight += torch.from_numpy(path()[step])
        first.follow(step)
    second = Average(kind, [weight], STEPS)
    second.load_state_dict(first.state_dict())
    assert np.array_equal(run(kind, stop, second, weight), run(kind))
