"""A few mutants of every input format; `make faults` tries many thousands."""

from __future__ import annotations

import json
import os
import random
import signal
import socket

import pytest

from tests.faults import driver
from tests.faults.mutants import engine
from tests.faults.mutants.kinds import NAMES, SOURCES, prepared, tried_in

MUTANTS = {
    **{"run-folder": 1, "space": 1, "onnx-compress": 1, "documents": 2},
    **{"warm-start": 1, "cache": 1, "test-set-uses": 1},
    **{"litert": 1, "c-files": 1, "signature": 1},
    **dict.fromkeys(SOURCES, 8),
    "parquet": 2,
}
"""Fewer than three where the command takes long; 100 of the forms of data together."""


@pytest.fixture(scope="module")
def places(finished_run):
    config, _ = finished_run
    with prepared(config.out, config.out.parent / "few.npz") as (stage, outside):
        yield stage, outside


def _parameters():
    """Those of formats that are exported, compiled and verified first run with the slow tests."""
    marks = dict.fromkeys(("c-files", "litert"), pytest.mark.slow)
    return [pytest.param(name, marks=marks.get(name, ())) for name in NAMES]


@pytest.mark.parametrize("name", _parameters())
def test_mutants_end_in_an_answer_or_in_one_message(places, tmp_path, name):
    findings = driver.Findings(tmp_path)
    count = MUTANTS.get(name, 3)
    totals = tried_in(*places, name, random.Random(1), findings, seconds=600, count=count)
    assert totals.mutants == count
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*/finding.json")]
    assert not kept, kept


def test_what_a_command_must_not_do_is_noticed(places, tmp_path, monkeypatch):
    """The command does what the content says."""
    stage, outside = places
    deeds = {
        b"traceback": lambda: [][0],
        b"machine": lambda: engine_exit(7),
        b"signal": lambda: signal.raise_signal(signal.SIGTERM),
        b"reads": lambda: (outside / "secret").read_bytes(),
        b"native": lambda: os.close(os.open(outside / "secret", os.O_RDONLY)),
        b"socket": lambda: socket.socket().close(),
        b"raw": lambda: os.write(2, b"\x1b[31m"),
        b"memory": lambda: len(b"x" * (300 << 20)),
        b"nothing": lambda: engine_exit(3),
    }
    monkeypatch.setattr(engine, "MOST_BYTES", 600 << 20)
    current = [b"nothing"]
    monkeypatch.setattr(engine, "main", lambda: deeds[current[0]]())

    def place(folder, content):
        current[0] = content
        return ()

    subject = engine.Subject("deeds", lambda _: [b"nothing"], lambda rng, _: b"nothing", place)
    runner = engine.Engine(subject, stage, outside, lambda *_: True)
    found = {deed: runner.alone(deed).fault for deed in deeds}
    assert found.pop(b"nothing") == ""
    assert "traceback: IndexError" in found[b"traceback"]
    assert "exit code 7" in found[b"machine"]
    assert "SIGTERM" in found[b"signal"]
    assert "outside of its folder" in found[b"reads"]
    assert "outside of its folder" in found[b"native"]
    assert "socket" in found[b"socket"]
    assert "raw character" in found[b"raw"]
    assert "peak of" in found[b"memory"]


def engine_exit(code):
    raise SystemExit(code)
