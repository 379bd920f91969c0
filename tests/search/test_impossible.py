from __future__ import annotations

from lepton_automl.config import Limits
from lepton_automl.cost import Cost
from lepton_automl.search.impossible import impossible, option

NEAR = Cost(9_310, 5_000, 5_500, 40_000, 3_000, 0.01234)


def test_the_answer_names_what_was_seen_and_an_option_that_would_fit() -> None:
    error = impossible(Limits(max_size_bytes=1000), {"size_bytes": 9_310, "macs": 1}, NEAR)
    assert "smallest size in kB seen is 9.4, the limit 1" in error.what
    assert "--max-size-kb 9.4 would fit" in error.fix
    assert error.exit_code == 5


def test_limits_that_fit_one_by_one_but_not_together_are_said_to() -> None:
    limits = Limits(max_size_bytes=9_000, max_macs=50_000)
    error = impossible(limits, {"size_bytes": 8_000, "macs": 30_000}, NEAR)
    assert "together" in error.what
    assert error.fix.startswith("--max-size-kb 9.4 --max-macs 50000 would fit")


def test_shown_limits_are_never_tighter_than_the_value() -> None:
    assert option("max_size_bytes", 9_301) == "--max-size-kb 9.4"
    assert option("max_latency_ms", 0.01234) == "--max-latency-ms 0.0124"
    assert option("max_macs", 40_000.2) == "--max-macs 40001"
    assert option("max_peak_ram_bytes", 3_000) == "--max-ram-kb 3"
