from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.cost import static_cost
from lepton_automl.search.cost_check import LATENCY, CostCheck
from lepton_automl.search.ledger import Ledger
from lepton_automl.search.quiet import Quiet
from tests.nets import random_arch

ARCH = random_arch(1, input=(8, 8, 1), classes=3)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def check(ledger: Ledger, *, latency: bool, limits: Limits | None = None) -> CostCheck:
    quiet = Quiet(ledger.path.parent / "locks")
    return CostCheck(limits or Limits(), 64, 100, needs_latency=latency, ledger=ledger, quiet=quiet)


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
    assert ledger.get(LATENCY, ARCH.hash) is not None


def test_what_breaks_another_limit_is_not_timed(ledger: Ledger) -> None:
    cost = check(ledger, latency=True, limits=Limits(max_size_bytes=10))(ARCH)
    assert cost.latency_ms is None
    assert ledger.all(LATENCY) == {}
