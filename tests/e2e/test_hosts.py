"""A search over hosts that see nothing of the run, some of which are killed or stopped."""

from __future__ import annotations

from pathlib import Path

from lepton_automl.runs.ledger import recorded_decisions
from tests.faults.hosts import (
    KILL_HOST,
    KILL_WORKER,
    STOP_HOST,
    Strike,
    Undisturbed,
    disturbed,
)


def test_a_search_over_hosts_ends_as_on_one_machine_though_they_are_killed_and_stopped(
    tmp_path: Path,
) -> None:
    expected = Undisturbed(tmp_path / "undisturbed")
    strikes = [Strike(what) for what in (KILL_HOST, STOP_HOST, KILL_WORKER, KILL_HOST)]
    problems, ledger, executor = disturbed(tmp_path, strikes, expected)
    assert problems == []
    events = ledger.all("rung")
    assert any("retried" in event for event in events.values())
    assert {event["host"] for event in events.values()} <= {"red", "blue"}
    assert {event["arithmetic"][:4] for event in events.values()} == {"cpu "}
    decisions = {each.name: each for each in recorded_decisions(ledger)}
    ledger.close()
    assert decisions["arithmetic of final trainings"].evidence == "all hosts have it"
    assert decisions["arithmetic of final trainings"].is_detail
    assert decisions["arithmetic of final trainings"].option == "finals in hosts.toml (--hosts)"
    assert len(executor.acknowledged) == len(set(executor.begun)) > 4
