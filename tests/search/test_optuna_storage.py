from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from lepton_automl.config import Limits
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.objectives import load
from lepton_automl.search.optuna_storage import StorageWriter, open_storage, shown
from lepton_automl.search.trials import RejectedProposal
from lepton_automl.search.workers.task import pack
from tests.helpers.search import make_trial

CHOICES = (8, 16, 24)
Happened = tuple[str, str, dict[str, Any]]

DISTRIBUTIONS = {"stem.out": distribution_to_json(CategoricalDistribution(CHOICES))}

PLAIN = make_trial(0)


def enter(number: int, rejected: int = 0, size: int = 10_000) -> Happened:
    refusals = tuple(
        RejectedProposal({"stem.out": 24}, DISTRIBUTIONS, {"max_size_bytes": 0.5})
        for _ in range(rejected)
    )
    made = dataclasses.replace(
        PLAIN,
        number=number,
        params={"stem.out": CHOICES[number % 3]},
        distributions=DISTRIBUTIONS,
        cost=dataclasses.replace(PLAIN.cost, size_bytes=size),
        rejected=refusals,
    )
    return EventKind.TRIAL, str(number), made.to_event()


def rung(number: int, label: str, right: int, epochs: int = 1, failed: str = "") -> Happened:
    correct = "" if failed else pack(np.arange(200) < right)
    value = {"epochs": epochs, "correct": correct, "failed": failed, "seconds": 0.1}
    return EventKind.RUNG, f"{number}-{label}", value


def winner(number: int = 0) -> Happened:
    return (
        EventKind.WINNER,
        "0",
        {"number": number, "reason": "", "trials": 3, "budget_seconds": None},
    )


def mirror(storage: BaseStorage, **changes: Any) -> StorageWriter:
    objectives = {name: load(name) for name in ("accuracy", "size_bytes")}
    return StorageWriter(storage, "run", objectives, Limits(max_size_bytes=12_000), **changes)


def trials(storage: BaseStorage) -> dict[str, FrozenTrial]:
    study = optuna.load_study(study_name="run", storage=storage)
    found = {trial.user_attrs["lepton_key"]: trial for trial in study.trials}
    assert len(found) == len(study.trials), "nothing is there twice"
    return found


SEARCH = [
    enter(0),
    rung(0, "0", 100),
    enter(1, rejected=2),
    rung(1, "0", 120),
    rung(1, "1", 140, 3),
    enter(2),
    rung(2, "0", 0, failed="diverged"),
    rung(1, "2", 150, 9),
    rung(1, "final-0", 160, 20),
    winner(1),
]


def test_a_search_as_optuna_knows_it() -> None:
    storage = InMemoryStorage()
    made = mirror(storage)
    for event in SEARCH:
        made.observe(*event)
    made.close()
    found = trials(storage)
    assert {key: trial.state.name for key, trial in found.items()} == {
        "0": "COMPLETE",
        "1-rejected-0": "PRUNED",
        "1-rejected-1": "PRUNED",
        "1": "COMPLETE",
        "2": "FAIL",
        "1-final-0": "COMPLETE",
    }
    assert found["1"].intermediate_values == {1: 0.6, 3: 0.7, 9: 0.75}
    assert found["1"].values == [0.75, 10_000]
    assert found["1"].params == {"stem.out": 16}
    assert found["1-final-0"].values == [0.8, 10_000]
    assert {t.user_attrs["lepton_number"] for t in found.values()} == {0, 1, 2}
    study = optuna.load_study(study_name="run", storage=storage)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "size_bytes"]
    assert study.user_attrs["lepton_winner"] == 1
    assert [t.user_attrs["lepton_key"] for t in study.best_trials] == ["1-final-0"]


def test_constraints_are_optunas_and_those_the_dashboard_reads() -> None:
    storage = InMemoryStorage()
    made = mirror(storage)
    for event in SEARCH:
        made.observe(*event)
    kept, rejected = trials(storage)["1"], trials(storage)["1-rejected-0"]
    assert kept.constraints["max_size_bytes"] == pytest.approx(10_000 / 12_000 - 1)
    assert rejected.constraints["max_size_bytes"] == 0.5
    assert rejected.user_attrs["constraint max_size_bytes"] == 0.5
    assert rejected.system_attrs["constraints"] == [0.5]


@pytest.mark.filterwarnings("ignore:PedAnova")
def test_optuna_finds_importances_in_it() -> None:
    storage = InMemoryStorage()
    made = mirror(storage)
    for number in range(12):
        made.observe(*enter(number, size=9_000 + 1000 * (number % 3)))
        made.observe(*rung(number, "0", 100 + 20 * (number % 3)))
    made.observe(*winner())
    study = optuna.load_study(study_name="run", storage=storage)
    importances = optuna.importance.get_param_importances(study, target=lambda t: t.values[1])
    assert list(importances) == ["stem.out"]


@pytest.fixture(params=["memory", "sqlite", "journal"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens the same storage as a new process would."""
    memory = InMemoryStorage()
    return {
        "memory": lambda: memory,
        "sqlite": lambda: open_storage(f"sqlite:///{tmp_path}/trials.db"),
        "journal": lambda: open_storage(str(tmp_path / "trials.log")),
    }[request.param]


def test_killed_anywhere_it_is_completed_without_repetitions_or_zombies(reopened: Any) -> None:
    for done in (3, 7):
        made = mirror(reopened())
        for event in SEARCH[:done]:  # A killed session; the next is told all from the beginning.
            made.observe(*event)
    made = mirror(reopened())
    for event in SEARCH:
        made.observe(*event)
    whole = InMemoryStorage()
    made = mirror(whole)
    for event in SEARCH:
        made.observe(*event)

    def content(storage: BaseStorage) -> Any:
        return {
            key: (t.state, t.values, t.params, t.intermediate_values, t.user_attrs, t.constraints)
            for key, t in trials(storage).items()
        }

    assert content(reopened()) == content(whole)
    assert all(t.state.is_finished() for t in trials(reopened()).values())


def test_a_candidate_stays_open_until_the_search_ends_and_goes_on_as_another_trial() -> None:
    storage = InMemoryStorage()
    made = mirror(storage)
    for number in range(40):
        made.observe(*enter(number))
        made.observe(*rung(number, "0", 100 + number))
    assert {t.state for t in trials(storage).values()} == {TrialState.RUNNING}
    made.observe(*winner(0))
    assert {t.state for t in trials(storage).values()} == {TrialState.COMPLETE}
    made.observe(*rung(0, "1", 190, 3))  # A longer search continues it.
    first, second = trials(storage)["0"], trials(storage)["0-1"]
    assert (first.values, second.state) == ([0.5, 10_000], TrialState.RUNNING)
    assert second.intermediate_values == {3: 0.95}
    assert first.user_attrs["lepton_number"] == second.user_attrs["lepton_number"] == 0


def test_another_search_in_the_same_storage_is_another_study(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/trials.db")
    objectives = {"accuracy": load("accuracy")}
    for name in ("a", "b"):
        StorageWriter(storage, name, objectives, Limits()).observe(*enter(0))
    counts = [len(optuna.load_study(study_name=n, storage=storage).trials) for n in "ab"]
    assert counts == [1, 1]


def test_a_url_is_a_database_and_a_path_is_a_journal(tmp_path: Path) -> None:
    assert isinstance(open_storage(str(tmp_path / "trials.log")), JournalStorage)
    open_storage(f"sqlite:///{tmp_path}/trials.db")
    assert (tmp_path / "trials.db").is_file()


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("sqlite:////nowhere/at/all/x.db", MachineError, "unable to open"),
        ("/nowhere/at/all/x.log", MachineError, "No such file"),
        ("abc://user:secret@host/db", ConfigError, "not the URL of a database"),
        ("postgresql://user:secret@127.0.0.1:1/db", MachineError, "postgresql://user:***@"),
    ],
)
def test_a_storage_that_is_not_there_is_said_without_its_password(
    url: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said.replace("*", r"\*")) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    assert shown("mysql://me:secret@host/db") == "mysql://me:***@host/db"
    assert shown("trials.log") == "trials.log"
