from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton_automl.config import Limits
from lepton_automl.events import Event
from lepton_automl.machine import Machine
from lepton_automl.objectives import load
from lepton_automl.search import latencies
from lepton_automl.search import newcomers as module
from lepton_automl.search.ledger import EventKind
from lepton_automl.search.newcomers import Newcomers, label_bytes
from lepton_automl.search.quiet import Quiet
from lepton_automl.search.trials import Trials, read_trials
from lepton_automl.search.work import SearchWork
from tests.searching import result, work


def newcomers(job: SearchWork, trials: Trials) -> Newcomers:
    return Newcomers(
        job, trials, [load(n) for n in job.config.objectives], Quiet(job.folder.checkpoints)
    )


def test_the_first_newcomers_are_the_known_good_ones(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    first = newcomers(job, trials).add()
    job.ledger.close()
    assert first is not None
    assert first.params["stem.out"] == 8
    assert first.params["stage1.out"] == 16
    assert trials[0] is first


def test_a_newcomer_is_in_the_ledger_before_anybody_trains_it(tmp_path: Path) -> None:
    job, trials = work(tmp_path / "run"), Trials()
    source = newcomers(job, trials)
    for number in range(3):
        source.add()
        trials.add_result(result(number, "0", 100))
        source.learn(number, trials.results[number][0])
    assert list(job.ledger.all(EventKind.TRIAL)) == ["0", "1", "2"]
    assert len(read_trials(job.ledger)) == 3
    job.ledger.close()


def test_many_refusals_are_told_with_the_limit_that_bites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORTH_TELLING", 1)
    told: list[Event] = []
    job = work(tmp_path / "run", limits=Limits(max_macs=14_000), emit=told.append)
    trials = Trials()
    newcomers(job, trials).add()
    job.ledger.close()
    assert trials[0].cost.macs <= 14_000
    assert "few nets are within the limits, 0 of 1 drawn" in told[0].message
    assert "what bites: max_macs (100% of the points)" in told[0].message
    assert "; the nearest is" in told[0].message


def test_long_class_names_make_files_longer() -> None:
    assert label_bytes(["0", "1"]) < label_bytes(["aeroplane", "dog"])
    assert label_bytes(["aeroplane", "dog"]) - label_bytes(["0", "1"]) == 10


def test_on_another_machine_latencies_are_measured_anew_and_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    asked: dict[str, Any] = {"objectives": ("accuracy", "latency_ms"), "emit": told.append}
    job, trials = work(tmp_path / "run", **asked), Trials()
    other = Machine("Other Core", (), 4, "1.32.0", "Linux x86_64")
    with monkeypatch.context() as patch:
        patch.setattr(latencies, "this_machine", lambda: other)
        newcomers(job, trials).add()
    there = trials[0].cost
    again = read_trials(job.ledger)
    newcomers(job, again)
    assert again[0].cost.latency_ms != there.latency_ms
    assert again[0].cost.size_bytes == there.size_bytes
    assert "measured on Other Core" in told[-1].message
    once_more = read_trials(job.ledger)
    newcomers(job, once_more)
    assert once_more[0].cost == again[0].cost
    assert len(job.ledger.all(EventKind.LATENCY)) == 2
    job.ledger.close()
