from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.cost import latency as latencies
from lepton_automl.cost import targets
from lepton_automl.cost.cost import Cost, static_cost
from lepton_automl.cost.latency import Latency, Undecided
from lepton_automl.cost.latency_model import LatencyModel, estimate
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.search.proposals.feasibility import (
    ENOUGH,
    CostCheck,
    RejectionStats,
    infeasible_error,
)
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from tests.helpers.nets import random_arch

ARCH = random_arch(1, input=(8, 8, 1), classes=3)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def check(
    ledger: Ledger,
    *,
    latency: bool,
    limits: Limits | None = None,
    model: LatencyModel | None = None,
) -> CostCheck:
    lock = MeasurementLock(ledger.path.parent / "locks")
    return CostCheck(
        limits or Limits(),
        targets.load(),
        100,
        needs_latency=latency,
        ledger=ledger,
        lock=lock,
        model=model,
    )


def test_without_a_wish_for_latency_nothing_is_timed(ledger: Ledger) -> None:
    cost, static = check(ledger, latency=False)(ARCH), static_cost(ARCH, 64)
    assert cost.latency_ms is None
    assert cost.macs == static.macs
    assert cost.size_bytes == static.size_bytes + 100
    assert list(ledger.events()) == []


def test_a_latency_is_measured_once_and_replayed_ever_after(ledger: Ledger) -> None:
    first = check(ledger, latency=True)(ARCH)
    events = list(ledger.events())
    again = check(ledger, latency=True)(ARCH)
    assert first == again
    assert list(ledger.events()) == events
    assert first.latency_ms is not None
    assert first.latency_low_ms is not None
    assert 0 < first.latency_low_ms <= first.latency_ms
    assert [key.split("/")[1] for key in ledger.all(EventKind.LATENCY)] == [ARCH.hash]


def test_what_breaks_another_limit_is_not_timed(ledger: Ledger) -> None:
    cost = check(ledger, latency=True, limits=Limits(max_size_bytes=10))(ARCH)
    assert cost.latency_ms is None
    assert ledger.all(EventKind.LATENCY) == {}


class Clock:
    """A stopwatch that gives what it is told to, and how often it was asked again."""

    def __init__(self, low: float, high: float) -> None:
        self.latency = Latency((low + high) / 2, low, high, 1.0, 1.0)
        self.doubted: list[bool] = []

    def measure(self, files: dict[str, bytes], is_undecided: Undecided) -> dict[str, Latency]:
        self.doubted += [is_undecided(self.latency)]
        return dict.fromkeys(files, self.latency)

    def quiet_reference_ms(self) -> float:
        return 2.0


@pytest.mark.parametrize(
    ("limit_ms", "is_near"), [(1.5, False), (1.97, True), (2.2, True), (2.43, True), (2.6, False)]
)
def test_only_a_latency_near_the_limit_is_doubted(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, limit_ms: float, is_near: bool
) -> None:
    clock = Clock(1.0, 1.2)
    monkeypatch.setattr(latencies, "Stopwatch", lambda: clock)
    cost = check(ledger, latency=True, limits=Limits(max_latency_ms=limit_ms))(ARCH)
    assert clock.doubted == [is_near]
    assert cost.latency_ms == pytest.approx(2.2)


def test_a_table_tells_what_this_machine_would_have_to_measure(ledger: Ledger) -> None:
    model = estimate(targets.load("arm64"))
    told = check(ledger, latency=True, model=model)
    cost = told(ARCH)
    assert cost.latency_ms == model.latency(ARCH.graph).milliseconds
    assert cost.latency_basis == "estimated"
    (event,) = ledger.all(EventKind.LATENCY).values()
    assert event["basis"] == "estimated"
    assert told.reference_ms is None
    assert ledger.all(EventKind.TIMING) == {}


def test_the_whole_cost_has_a_latency_whatever_limits_it_breaks(ledger: Ledger) -> None:
    model = estimate(targets.load("arm64"))
    told = check(ledger, latency=True, limits=Limits(max_size_bytes=10), model=model)
    assert told(ARCH).latency_ms is None
    assert told.whole(ARCH).latency_ms is not None


NEAR = Cost(9_310, 5_000, 5_500, 40_000, 3_000, 0.01234)


def small(**costs: float) -> Cost:
    return dataclasses.replace(NEAR, **costs)  # type: ignore[arg-type]


def test_the_answer_names_what_was_seen_and_an_option_that_would_fit() -> None:
    error = infeasible_error(Limits(max_size_bytes=1000), {"max_size_bytes": NEAR}, NEAR)
    assert "smallest size seen is 9.4 kB, the limit 1 kB" in error.what
    assert "--max-size-kb 9.4 would fit" in error.fix
    assert error.exit_code == 5


def test_limits_that_fit_one_by_one_but_not_together_are_said_to() -> None:
    limits = Limits(max_size_bytes=9_000, max_macs=50_000)
    least = {"max_size_bytes": small(size_bytes=8_000), "max_macs": small(macs=30_000)}
    error = infeasible_error(limits, least, NEAR)
    assert "together" in error.what
    assert "the nearest: size 9.4 kB, multiply-accumulates 40000" in error.what
    assert error.fix.startswith("--max-size-kb 9.4 would fit the nearest")


def test_what_would_fit_is_one_net_not_the_best_of_each() -> None:
    limits = Limits(max_size_bytes=1_000, max_macs=35_000)
    least = {"max_size_bytes": small(size_bytes=8_000), "max_macs": small(macs=30_000)}
    error = infeasible_error(limits, least, NEAR)
    assert "smallest size seen is 8 kB, the limit 1 kB" in error.what
    assert "multiply" not in error.what
    assert error.fix.startswith("--max-size-kb 9.4 --max-macs 40000 would fit")


def test_a_named_latency_leaves_room_for_being_measured_again() -> None:
    limits = Limits(max_latency_ms=0.001)
    measured = small(latency_ms=0.02, latency_high_ms=0.022)
    error = infeasible_error(limits, {"max_latency_ms": measured}, measured)
    assert "smallest latency seen is 0.02 ms, the limit 0.001 ms" in error.what
    assert error.fix.startswith("--max-latency-ms 0.0231 would fit")


def test_rejection_stats_report_scarcity_and_a_limit_that_a_tenth_satisfies() -> None:
    stats = RejectionStats(Limits(max_size_bytes=10_000, max_macs=10**9))
    for number in range(ENOUGH - 1):
        stats.count(small(size_bytes=20_000 + 100 * number), {"max_size_bytes": 1.0})
        assert not stats.is_scarce
    stats.count(small(size_bytes=12_000), {"max_size_bytes": 0.2})
    assert stats.is_scarce
    assert "0 of 100 drawn; rejected by --max-size-kb 100%" in stats.summary()
    assert "the nearest exceeds them by 20.0%" in stats.summary()
    assert "about one in ten is within --max-size-kb 20.9" in stats.summary()
    for _ in range(2):
        stats.count(NEAR, {})
    assert not stats.is_scarce
