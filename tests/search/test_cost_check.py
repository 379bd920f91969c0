from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl import targets
from lepton_automl.config import Limits
from lepton_automl.cost import Doubt, Latency, static_cost
from lepton_automl.latency_model import LatencyModel, estimate
from lepton_automl.search import latencies
from lepton_automl.search.cost_check import CostCheck
from lepton_automl.search.ledger import EventKind, Ledger
from lepton_automl.search.quiet import Quiet
from tests.nets import random_arch

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
    quiet = Quiet(ledger.path.parent / "locks")
    return CostCheck(
        limits or Limits(),
        targets.load(),
        100,
        needs_latency=latency,
        ledger=ledger,
        quiet=quiet,
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

    def measure(self, files: dict[str, bytes], doubt: Doubt) -> dict[str, Latency]:
        self.doubted += [doubt(self.latency)]
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
