from __future__ import annotations

import time

import pytest
import torch

from lepton_automl.training import precision
from lepton_automl.training.precision import (
    Throughput,
    matmul_dtype,
    peak_macs_per_second,
    utilisation,
)

CPU = torch.device("cpu")


def walked(steps, seconds, batch=10, monkeypatch=None):
    now = iter(100 + seconds * n / (steps - 1) for n in range(steps))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    walk = Throughput(batch)
    for step in range(steps):
        walk.on_batch(step + 1, steps)
    return walk


def test_pictures_are_counted_from_the_first_batch_on(monkeypatch):
    walk = walked(21, 4.0, monkeypatch=monkeypatch)
    assert walk.seconds == pytest.approx(4.0)
    assert walk.samples_per_second == pytest.approx(20 * 10 / 4)


def test_one_batch_has_no_throughput():
    walk = Throughput(8)
    assert walk.samples_per_second == 0
    walk.on_batch(1, 1)
    assert walk.samples_per_second == 0
    assert utilisation(walk, 10**6, CPU) == 0


def test_a_training_that_does_nothing_but_products_uses_all_there_is(monkeypatch):
    monkeypatch.setattr(precision, "LEAST_SECONDS", 0.0)
    torch.set_num_threads(1)
    # Of a few, as another process may take the processor in the middle of any one.
    assert any(0.3 < products_alone() < 1.2 for _ in range(10))


def products_alone():
    """Share of the peak; one product a "picture", counted as the three that its passes would be."""
    peak_macs_per_second.cache_clear()
    side = precision.SIDES["cpu"]
    square, walk = torch.ones(side, side, dtype=matmul_dtype(CPU)), Throughput(1)
    for step in range(20):
        square @ square
        walk.on_batch(step + 1, 20)
    return utilisation(walk, side**3 // precision.PASSES, CPU)


def test_the_yardstick_is_measured_once():
    assert peak_macs_per_second("cpu") == peak_macs_per_second("cpu") > 1e8
