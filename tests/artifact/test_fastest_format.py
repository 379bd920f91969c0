"""The format that ships by its time: times are given here, so nothing depends on the machine."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from lepton_automl.artifact.fastest_format import elsewhere, fastest_format
from lepton_automl.config import Limits
from lepton_automl.core.decisions import SHIPPING_FORMAT
from lepton_automl.cost import latency
from lepton_automl.data.dataset import LabelledFiles
from lepton_automl.models.format_session import FormatSession
from lepton_automl.models.random_weights import random_net
from lepton_automl.runs.ledger import EventKind, Ledger
from tests.helpers import packed_format
from tests.helpers.nets import random_arch, random_model, random_samples

CLASSES = ("a", "b", "c", "d", "e")
ROUNDS = 15


@pytest.fixture(autouse=True)
def _packed(tmp_path, monkeypatch):
    """A format that answers on every machine, and no real clock."""
    packed_format.install(tmp_path, monkeypatch)
    yield
    sys.modules.pop("packed_format", None)


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """The choice for given times of a call in each round, and the ledger."""
    net = random_net(random_arch(1, input=(12, 12, 1)), 64, 1)
    twin = random_model(net.arch)
    samples = random_samples(net.arch, 40, 1)
    np.save(tmp_path / "pixels.npy", samples)
    np.save(tmp_path / "labels.npy", np.arange(40) % 5)
    validation = LabelledFiles(tmp_path / "pixels.npy", tmp_path / "labels.npy")
    calls = []
    with Ledger(tmp_path / "ledger.db") as ledger:

        def choose(own, *, floating=1.0, limits=None):
            def times(self, sample, *, rounds, seconds):
                calls.append(rounds)
                return list(np.broadcast_to(own, ROUNDS)), [1.0] * ROUNDS

            def measure(self, kind, files, is_undecided=None):
                for number, key in enumerate(files):  # The float file is the last one.
                    ratio = floating if number else 1.0
                    record = latency.Latency(ratio, 0.99 * ratio, 1.01 * ratio, 1.0, 1.0)
                    ledger.record(kind, self._key(key), dataclasses.asdict(record))

            monkeypatch.setattr(FormatSession, "times", times)
            monkeypatch.setattr(latency.Latencies, "measure", measure)
            return fastest_format(
                ["packed"], net, twin, CLASSES, validation, limits or Limits(), ledger
            )

        choose.ledger, choose.calls = ledger, calls
        yield choose


def test_a_format_that_is_faster_in_all_rounds_ships(chosen):
    name, decision = chosen(0.4)
    assert (name, decision.name, decision.choice) == ("packed", SHIPPING_FORMAT, "packed")
    assert (decision.option, decision.certainty) == ("--ship onnx", "measured")
    assert "packed takes 0.40 [0.40, 0.40] of the time of model.int8.onnx" in decision.evidence
    assert "40 validation samples" in decision.evidence


def test_a_faster_median_is_not_enough(chosen):
    name, decision = chosen([0.8, 1.1] * 7 + [0.8])
    assert name == "onnx"
    assert "packed takes 0.80 [0.80, 1.10]" in decision.evidence
    assert "no format is shown to be faster than ONNX" in decision.evidence


def test_a_format_that_is_slower_than_the_float_file_does_not_ship(chosen):
    assert chosen(0.7, floating=0.5)[0] == "onnx"


def test_a_float_file_that_breaks_a_limit_is_no_rival(chosen):
    # The feature maps of a float net take four times the memory.
    assert chosen(0.7, floating=0.5, limits=Limits(max_peak_ram_bytes=10**6))[0] == "onnx"
    assert chosen(0.7, floating=0.5, limits=Limits(max_peak_ram_bytes=500))[0] == "packed"


def test_a_format_that_answers_otherwise_does_not_ship(chosen, monkeypatch):
    monkeypatch.setenv("PACKED_FAULTY", "1")
    name, decision = chosen(0.1)
    assert name == "onnx"
    assert "packed: not taken, 40 of 40 samples differ" in decision.evidence
    assert not chosen.calls


def test_a_format_beyond_a_limit_does_not_ship(chosen):
    name, decision = chosen(
        0.1, limits=Limits(max_peak_ram_bytes=499)
    )  # It says that it takes 500.
    assert (name, decision.evidence) == (
        "onnx",
        "packed: not taken, a limit on size or memory is exceeded",
    )


def test_a_format_that_is_not_run_here_does_not_ship(chosen, monkeypatch):
    monkeypatch.setenv("PACKED_MISSING", "no such device")
    name, decision = chosen(0.1)
    assert (name, decision.evidence) == ("onnx", "packed: not run here, no such device")


def test_times_are_measured_once(chosen):
    assert chosen(0.4)[0] == "packed"
    assert chosen(1.4)[0] == "packed"
    assert chosen.calls == [ROUNDS]
    assert len(chosen.ledger.all(EventKind.FORMAT_LATENCY)) == 1


def test_files_for_another_device_are_onnx():
    name, decision = elsewhere("arm64")
    assert (name, decision.certainty, decision.option) == ("onnx", "assumed", "--ship")
    assert "arm64" in decision.evidence
