from __future__ import annotations

import time

import pytest

from lepton_automl.training.precision import Throughput


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
