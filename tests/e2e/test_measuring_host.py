"""A whole run whose latencies are measured on a host that is another machine, as it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.core.machine import this_machine
from lepton_automl.pipeline import run
from lepton_automl.runs.ledger import EventKind, LedgerView, recorded_decisions
from tests.helpers.runs import OBJECTIVES, quick_config

BOARD = """
from lepton_automl.search.workers.channel import Channel
channel = Channel()
from lepton_automl.core.machine import Machine
from lepton_automl.search.workers import agent
agent.this_machine = lambda: Machine("Board", ("asimddp",), 4, "1.0", "Linux aarch64")
agent.Agent(channel).serve()
"""


@pytest.mark.slow  # A run with two processes of workers; the parts are in tests/search.
def test_a_run_and_its_verdict_have_the_latencies_of_the_host(tmp_path: Path) -> None:
    board = tmp_path / "board.py"
    board.write_text(BOARD)
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(
        f"[host.here]\nlocal = true\njobs = 1\n[host.board]\njobs = 1\nmeasures = true\n"
        f'cache = "{tmp_path}/cache"\ncommand = {json.dumps([sys.executable, str(board)])}\n'
    )
    config = quick_config(
        tmp_path,
        hosts=hosts,
        jobs=None,
        objectives=(*OBJECTIVES, "latency_ms"),
        limits=Limits(max_latency_ms=1000.0),
    )
    outcome = run.run(config)
    verdict = outcome.verdict
    assert verdict.latency_host == "board"
    assert verdict.timed_on.cpu == "Board"
    assert verdict.machine == this_machine()
    with LedgerView(config.out / "ledger.db") as ledger:
        (timing,) = ledger.all(EventKind.TIMING).items()
        measured = [*ledger.all(EventKind.LATENCY), *ledger.all(EventKind.FILE_LATENCY)]
        decisions = {each.name: each.choice for each in recorded_decisions(ledger)}
    assert timing[1]["host"] == "board"
    assert measured
    assert {key.split("/")[0] for key in measured} == {timing[0]}
    assert decisions["latencies"] == "measured on host board, those of the verification too"
    quiet = timing[1]["quiet_ms"]
    assert verdict.int8 is not None
    assert verdict.int8.latency_ms > 0.0 < quiet
    assert "latencies on host board, Board" in (outcome.artifact / "MODEL_CARD.md").read_text()
