from __future__ import annotations

import pytest

from lepton_automl.core.machine import this_machine
from lepton_automl.cost import targets
from lepton_automl.cost.latency import NetFile, Timing, fingerprint, predicted_milliseconds
from lepton_automl.cost.latency_model import estimate
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger
from tests.helpers.nets import random_arch


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def written(seed: int) -> NetFile:
    return NetFile(random_arch(seed), random_int8_onnx(random_arch(seed), 64))


def test_a_file_is_timed_once_and_replayed_ever_after(ledger):
    first = Timing(ledger).milliseconds({"net": written(0)})
    assert first["net"] > 0
    again = Timing(ledger).milliseconds({"same bytes, other name": written(0)})
    assert again["same bytes, other name"] == first["net"]
    assert len(ledger.all(EventKind.FILE_LATENCY)) == 1


def test_a_time_is_the_ratio_to_the_reference_net_times_its_recorded_quiet_time(ledger):
    here = fingerprint(this_machine())
    ledger.record(EventKind.TIMING, here, {"quiet_ms": 2.0, "machine": "this"})
    found = Timing(ledger).milliseconds({"net": written(1)})["net"]
    (recorded,) = ledger.all(EventKind.FILE_LATENCY).values()
    assert found == pytest.approx(2.0 * recorded["ratio"])


def test_told_times_need_no_clock():
    model, net = estimate(targets.load("cortex-m")), written(2)
    assert predicted_milliseconds(model, {"a": net}) == {
        "a": model.latency(net.arch.graph).milliseconds
    }
