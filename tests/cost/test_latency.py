from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl.core.machine import Machine, this_machine
from lepton_automl.cost import targets
from lepton_automl.cost.latency import (
    Latencies,
    NetFile,
    Timing,
    fingerprint,
    last_reference_ms,
    predicted_milliseconds,
)
from lepton_automl.cost.latency_model import estimate
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger
from tests.helpers.nets import random_arch

FILE = random_int8_onnx(random_arch(1, input=(8, 8, 1), classes=3), 64)
OTHER = Machine("Other Core", ("avx2",), 4, "1.32.0", "Linux x86_64")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def test_what_was_measured_is_replayed_on_the_same_machine(ledger: Ledger) -> None:
    first = Latencies(ledger)
    quiet = first.reference_ms()
    first.measure(EventKind.LATENCY, {"net": FILE})
    again = Latencies(ledger)
    assert again.reference_ms() == quiet == last_reference_ms(ledger)
    assert (
        again.known(EventKind.LATENCY, "net") == first.known(EventKind.LATENCY, "net") is not None
    )
    assert again.elsewhere is None


def test_another_machines_figures_are_not_known_here(ledger: Ledger) -> None:
    there = Latencies(ledger, OTHER)
    there.reference_ms()
    there.measure(EventKind.LATENCY, {"net": FILE})
    here = Latencies(ledger)
    assert here.known(EventKind.LATENCY, "net") is None
    assert here.elsewhere == str(OTHER)
    assert there.elsewhere is None
    here.reference_ms()
    assert there.elsewhere == str(this_machine())
    assert there.known(EventKind.LATENCY, "net") is not None


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ({"cpu": "x"}, True),
        ({"flags": ()}, True),
        ({"onnxruntime": "1.33.0"}, True),
        ({"system": "Darwin arm64"}, True),
        ({"cores": 64}, False),
    ],
)
def test_a_machine_is_what_latencies_depend_on(change: dict[str, object], is_other: bool) -> None:
    changed = dataclasses.replace(OTHER, **change)  # type: ignore[arg-type]
    assert (fingerprint(changed) != fingerprint(OTHER)) == is_other


def test_a_run_that_timed_nothing_has_no_reference(ledger: Ledger) -> None:
    assert last_reference_ms(ledger) is None


def written(seed: int) -> NetFile:
    return NetFile(random_arch(seed), random_int8_onnx(random_arch(seed), 64))


def test_a_file_is_timed_once_and_replayed_ever_after(ledger: Ledger) -> None:
    first = Timing(ledger).milliseconds({"net": written(0)})
    assert first["net"] > 0
    again = Timing(ledger).milliseconds({"same bytes, other name": written(0)})
    assert again["same bytes, other name"] == first["net"]
    assert len(ledger.all(EventKind.FILE_LATENCY)) == 1


def test_a_time_is_the_ratio_to_the_reference_net_times_its_recorded_quiet_time(
    ledger: Ledger,
) -> None:
    here = fingerprint(this_machine())
    ledger.record(EventKind.TIMING, here, {"quiet_ms": 2.0, "machine": "this"})
    found = Timing(ledger).milliseconds({"net": written(1)})["net"]
    (recorded,) = ledger.all(EventKind.FILE_LATENCY).values()
    assert found == pytest.approx(2.0 * recorded["ratio"])


def test_predicted_times_need_no_clock() -> None:
    model, net = estimate(targets.load("cortex-m")), written(2)
    assert predicted_milliseconds(model, {"a": net}) == {
        "a": model.latency(net.arch.graph).milliseconds
    }
