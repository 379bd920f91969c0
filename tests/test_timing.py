from __future__ import annotations

import pytest

from lepton_automl.random_net import random_int8
from lepton_automl.search.ledger import Ledger
from lepton_automl.timing import FILE, Timing
from tests.nets import random_arch


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def test_a_file_is_timed_once_and_replayed_ever_after(ledger):
    files = {"net": random_int8(random_arch(0), 64)}
    first = Timing(ledger).milliseconds(files)
    assert first["net"] > 0
    again = Timing(ledger).milliseconds({"same bytes, other name": files["net"]})
    assert again["same bytes, other name"] == first["net"]
    assert len(ledger.all(FILE)) == 1


def test_a_time_is_the_ratio_to_the_reference_net_times_its_recorded_quiet_time(ledger):
    ledger.record("timing", "reference", {"quiet_ms": 2.0})
    files = {"net": random_int8(random_arch(1), 64)}
    found = Timing(ledger).milliseconds(files)["net"]
    (recorded,) = ledger.all(FILE).values()
    assert found == pytest.approx(2.0 * recorded["ratio"])
