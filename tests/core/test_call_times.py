from __future__ import annotations

import time

import pytest

from lepton_automl.core.call_times import shortest_call


def clock(monkeypatch, readings):
    now = iter(readings)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))


def test_the_shortest_of_the_calls_counts(monkeypatch):
    clock(monkeypatch, [0.0, 3.0, 5.0, 9.0])
    assert shortest_call(lambda: None, 8.0) == 2.0


def test_a_clock_that_stands_still_during_calls_gives_no_time_of_zero(monkeypatch):
    clock(monkeypatch, [n // 3 * 0.01 for n in range(1000)])
    calls = []
    assert shortest_call(lambda: calls.append(1), 0.0) == pytest.approx(0.01)
    assert len(calls) > 1
