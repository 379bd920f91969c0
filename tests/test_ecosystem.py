from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from lepton_automl import ecosystem, pipeline
from lepton_automl.config import Limits, RunConfig
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.run_folder import Definition, RunFolder
from lepton_automl.search import mirror, search
from lepton_automl.search.ledger import EventKind, Ledger
from tests.searching import InlineWorkers, candidate, work


@pytest.fixture
def session(tmp_path: Path) -> Any:
    """As far as the ecosystem looks at one."""
    folder = RunFolder(tmp_path / "mine")
    about = ("digits", "", False, "ab", "tiny", "cd", ("accuracy", "macs"), 7, "x86-any", "size")
    folder.claim(Definition(*about, Limits(max_size_bytes=9_000)), fresh=False)
    said: list[str] = []
    made = SimpleNamespace(
        folder=folder,
        ledger=Ledger(folder.ledger),
        config=RunConfig("digits", folder.path, objectives=("accuracy", "macs")),
        said=said,
        tell=lambda stage, message: said.append(message),
        emit=lambda event: said.append(event.message),
    )
    yield made
    made.ledger.close()


def asked(session: Any, **options: Any) -> Any:
    session.config = dataclasses.replace(session.config, **options)
    return session


def test_by_default_nobody_is_told_and_nothing_is_recorded(session: Any) -> None:
    with ecosystem.told(session):
        session.ledger.record("kind", "key", {})
    assert [kind for kind, _, _ in session.ledger.events()] == ["kind"]
    assert session.said == []


def test_every_session_mirrors_to_the_same_study(session: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    session.ledger.record(EventKind.TRIAL, "0", candidate(0, size=8_000).to_event())
    for number in (1, 2):
        with ecosystem.told(asked(session, optuna_storage=url)):
            session.ledger.record(
                EventKind.TRIAL, str(number), candidate(number, size=8_000).to_event()
            )
    (name,) = optuna.get_all_study_names(url)
    assert name.startswith("mine-")
    trials = optuna.load_study(study_name=name, storage=url).trials
    assert [trial.user_attrs["lepton_number"] for trial in trials] == [0, 1, 2]
    assert name in session.said[0]


def test_a_password_is_not_written_down(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = optuna.storages.InMemoryStorage()
    monkeypatch.setattr(mirror, "open_storage", lambda url: storage)
    with ecosystem.told(asked(session, optuna_storage="postgresql://me:secret@host/db")):
        pass
    assert not any(b"secret" in path.read_bytes() for path in session.folder.path.iterdir())


def test_a_storage_that_breaks_in_the_middle_costs_a_warning(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(optuna.storages.InMemoryStorage):
        def create_new_trial(self, *arguments: Any, **options: Any) -> int:
            raise OSError("the server is gone")

    monkeypatch.setattr(mirror, "open_storage", lambda url: Breaking())
    with ecosystem.told(asked(session, optuna_storage="anything")):
        session.ledger.record(EventKind.TRIAL, "0", candidate(0).to_event())
        session.ledger.record(EventKind.TRIAL, "1", candidate(1).to_event())
    (warning,) = [said for said in session.said if said.startswith("warning")]
    assert "failed: the server is gone" in warning


def test_callbacks_are_looked_for_before_anything_is_made(tmp_path: Path) -> None:
    config = RunConfig("digits", tmp_path / "run", callbacks=("tensorbord",))
    for verb in (pipeline.run, pipeline.search):
        with pytest.raises(ConfigError, match="not a callback"):
            verb(config)
    assert not (tmp_path / "run").exists()


def test_a_database_that_is_not_there_ends_the_command(session: Any) -> None:
    with (
        pytest.raises(MachineError, match="cannot be used"),
        ecosystem.told(asked(session, optuna_storage="sqlite:////nowhere/x.db")),
    ):
        pass


def test_facts_are_flat_and_without_paths(session: Any) -> None:
    facts = ecosystem.facts(session.folder.definition())
    assert facts["objectives"] == "accuracy, macs"
    assert facts["limit max_size_bytes"] == 9_000
    assert str(session.folder.path) not in str(facts)


def test_a_real_search_and_its_mirror_say_the_same(session: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    job = work(tmp_path / "run", session.ledger, trials=3)
    asked(session, optuna_storage=url, objectives=job.config.objectives)
    with ecosystem.told(session):
        found = search(job, InlineWorkers())
    (name,) = optuna.get_all_study_names(url)
    study = optuna.load_study(study_name=name, storage=url)
    mirrored = [t for t in study.trials if t.user_attrs["lepton_role"] == "candidate"]
    assert {t.user_attrs["lepton_number"]: t.values[1] for t in mirrored} == {
        row.number: row.cost.size_bytes for row in found.rows
    }
    rungs = {
        f"{t.user_attrs['lepton_number']}-{rung}"
        for t in mirrored
        for rung in range(len(t.intermediate_values))
    }
    assert rungs == {key for key in session.ledger.all("rung") if "final" not in key}
    assert all(trial.state.is_finished() for trial in study.trials)
    assert study.user_attrs["lepton_winner"] == found.number
    assert not [said for said in session.said if "warning" in said]
    assert len(found.hypervolume) >= len(rungs)
