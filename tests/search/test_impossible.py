from __future__ import annotations

import dataclasses

from lepton_automl.config import Limits
from lepton_automl.cost import Cost
from lepton_automl.search.impossible import ENOUGH, Tally, impossible

NEAR = Cost(9_310, 5_000, 5_500, 40_000, 3_000, 0.01234)


def small(**costs: float) -> Cost:
    return dataclasses.replace(NEAR, **costs)  # type: ignore[arg-type]


def test_the_answer_names_what_was_seen_and_an_option_that_would_fit() -> None:
    error = impossible(Limits(max_size_bytes=1000), {"max_size_bytes": NEAR}, NEAR)
    assert "smallest size seen is 9.4 kB, the limit 1 kB" in error.what
    assert "--max-size-kb 9.4 would fit" in error.fix
    assert error.exit_code == 5


def test_limits_that_fit_one_by_one_but_not_together_are_said_to() -> None:
    limits = Limits(max_size_bytes=9_000, max_macs=50_000)
    least = {"max_size_bytes": small(size_bytes=8_000), "max_macs": small(macs=30_000)}
    error = impossible(limits, least, NEAR)
    assert "together" in error.what
    assert "the nearest: size 9.4 kB, multiply-accumulates 40000" in error.what
    assert error.fix.startswith("--max-size-kb 9.4 would fit the nearest")


def test_what_would_fit_is_one_net_not_the_best_of_each() -> None:
    limits = Limits(max_size_bytes=1_000, max_macs=35_000)
    least = {"max_size_bytes": small(size_bytes=8_000), "max_macs": small(macs=30_000)}
    error = impossible(limits, least, NEAR)
    assert "smallest size seen is 8 kB, the limit 1 kB" in error.what
    assert "multiply" not in error.what
    assert error.fix.startswith("--max-size-kb 9.4 --max-macs 40000 would fit")


def test_a_named_latency_leaves_room_for_being_measured_again() -> None:
    limits = Limits(max_latency_ms=0.001)
    measured = small(latency_ms=0.02, latency_high_ms=0.022)
    error = impossible(limits, {"max_latency_ms": measured}, measured)
    assert "smallest latency seen is 0.02 ms, the limit 0.001 ms" in error.what
    assert error.fix.startswith("--max-latency-ms 0.0231 would fit")


def test_a_tally_knows_scarcity_and_the_limit_that_would_give_room() -> None:
    tally = Tally(Limits(max_size_bytes=10_000, max_macs=10**9))
    for number in range(ENOUGH - 1):
        tally.count(small(size_bytes=20_000 + 100 * number), {"max_size_bytes": 1.0})
        assert not tally.is_scarce
    tally.count(small(size_bytes=12_000), {"max_size_bytes": 0.2})
    assert tally.is_scarce
    assert "0 of 100 drawn; what bites: max_size_bytes (100% of the points)" in tally.words()
    assert "the nearest is 20.0% beyond" in tally.words()
    assert "--max-size-kb 20.9 would let about one of ten in" in tally.words()
    for _ in range(2):
        tally.count(NEAR, {})
    assert not tally.is_scarce
