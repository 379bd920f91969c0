from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from lepton_automl.config import Limits, RunConfig
from lepton_automl.core.events import Event
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.pipeline import run
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import REFERENCE, EventKind, Ledger
from lepton_automl.search import observers, optuna_storage
from lepton_automl.search.callbacks import Callback, End, Run, Rung
from lepton_automl.search.loop import search
from lepton_automl.search.observers import CallbackDispatcher, watched
from lepton_automl.search.workers.task import pack
from tests.helpers.search import InlineWorkers, make_trial, search_request


def told(session):
    return observers.notified(session.config, session.folder, session.ledger, session.emit)


class Notebook(Callback):
    """Writes down what it is told."""

    failures = (KeyError,)

    def __init__(self, known: int = 0) -> None:
        self.known, self.rungs, self.ends = known, list[Rung](), list[End]()
        self.run: Run | None = None

    def start(self, run: Run) -> int:
        self.run = run
        return self.known

    def rung(self, rung: Rung) -> None:
        self.rungs.append(rung)

    def end(self, end: End) -> None:
        self.ends.append(end)


def feed(callback: Callback) -> CallbackDispatcher:
    return CallbackDispatcher("notebook", callback, Run("mine", Path("x")))


def tell(made: CallbackDispatcher, *, winner: bool = True) -> None:
    first = make_trial(0, size=5_000, **{"stem.out": 8}).to_event()
    made.observe(EventKind.TRIAL, "0", first)
    made.observe(EventKind.HYPERVOLUME, REFERENCE, {"point": [0, 0]})
    for step, (rung, right, failed) in enumerate((("0", 100, ""), ("1", 0, "diverged"))):
        correct = "" if failed else pack(np.arange(200) < right)
        value = {"epochs": step + 1, "correct": correct, "failed": failed, "seconds": 0.5}
        made.observe(EventKind.RUNG, f"0-{rung}", value)
        made.observe(EventKind.HYPERVOLUME, f"0-{rung}", {"value": 0.25, "seconds": 9.0})
    if winner:
        made.observe(EventKind.WINNER, "0", {"number": 0, "reason": "alone"})


def test_a_rung_is_told_with_all_that_is_known_of_it() -> None:
    notebook = Notebook()
    made = feed(notebook)
    tell(made)
    made.close()
    first, second = notebook.rungs
    assert (first.step, first.number, first.rung, first.epochs) == (0, 0, "0", 1)
    assert (first.accuracy, first.hypervolume, first.seconds) == (0.5, 0.25, 0.5)
    assert (first.params, first.costs["size_bytes"]) == ({"stem.out": 8}, 5_000)
    assert "latency_ms" not in first.costs
    assert all(isinstance(cost, int | float) for cost in first.costs.values())
    assert (second.step, second.accuracy, second.failed) == (1, None, "diverged")
    assert notebook.ends == [End(0, "alone")]
    assert made.failures == (KeyError,)


def test_what_it_has_already_is_not_told_again() -> None:
    notebook = Notebook(known=1)
    tell(feed(notebook))
    assert [rung.step for rung in notebook.rungs] == [1]


def test_a_search_that_was_stopped_has_no_winner() -> None:
    notebook = Notebook()
    made = feed(notebook)
    tell(made, winner=False)
    made.close()
    assert notebook.ends == [End()]


def test_what_never_began_does_not_end() -> None:
    notebook = Notebook()
    feed(notebook).close()
    assert notebook.ends == []


class Remembering:
    """Remembers what it is told of, and when it was closed."""

    name = "a friend"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.seen, self.is_closed = error, list[str](), False
        self.threads: set[int] = set()

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        self.threads.add(threading.get_ident())
        if self.error and key == "2":
            raise self.error
        self.seen.append(key)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record("kind", "0", {})
    yield ledger
    ledger.close()


def test_the_past_and_the_present_arrive_in_order_in_another_thread(ledger: Ledger) -> None:
    friend, told = Remembering(), list[Event]()
    with watched(ledger, [friend], told.append):
        for key in "123":
            ledger.record("kind", key, {})
    ledger.record("kind", "later", {})
    assert friend.seen == ["0", "1", "2", "3"]
    assert friend.is_closed
    assert threading.get_ident() not in friend.threads
    assert told == []


def test_a_failure_costs_one_warning_and_nothing_else(ledger: Ledger) -> None:
    bad, good, told = Remembering(OSError("disk gone")), Remembering(), list[Event]()
    with watched(ledger, [bad, good], told.append):
        for key in "123":
            ledger.record("kind", key, {})
    assert bad.seen == ["0", "1"]
    assert good.seen == ["0", "1", "2", "3"]
    (event,) = told
    assert event.message.startswith("warning: a friend failed: disk gone; the search continues")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_an_observer_is_shown_and_ends_no_search(ledger: Ledger) -> None:
    bad, told = Remembering(ZeroDivisionError()), list[Event]()
    with watched(ledger, [bad], told.append):
        ledger.record("kind", "2", {})
    (event,) = told
    assert "stopped because of a bug" in event.message


def test_the_search_does_not_wait_for_a_slow_observer(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Observer(Remembering):
        def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
            released.wait()

    monkeypatch.setattr(observers, "_CLOSE_SECONDS", 0.1)
    told = list[Event]()
    with watched(ledger, [Observer()], told.append):
        ledger.record("kind", "1", {})
    # It gets here although the observer does not return before the next line.
    released.set()
    assert "is not done after" in told[0].message


@pytest.fixture
def session(tmp_path: Path) -> Any:
    """As far as the ecosystem looks at one."""
    folder = RunFolder(tmp_path / "mine")
    about = ("digits", "", False, "ab", "tiny", "cd", ("accuracy", "macs"), 7, "x86-any", "size")
    with folder.claimed(Definition(*about, Limits(max_size_bytes=9_000)), fresh=False):
        pass
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
    with told(session):
        session.ledger.record("kind", "key", {})
    assert [kind for kind, _, _ in session.ledger.events()] == ["kind"]
    assert session.said == []


def test_every_session_mirrors_to_the_same_study(session: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    session.ledger.record(EventKind.TRIAL, "0", make_trial(0, size=8_000).to_event())
    for number in (1, 2):
        with told(asked(session, optuna_storage=url)):
            session.ledger.record(
                EventKind.TRIAL, str(number), make_trial(number, size=8_000).to_event()
            )
    (name,) = optuna.get_all_study_names(url)
    assert name.startswith("mine-")
    trials = optuna.load_study(study_name=name, storage=url).trials
    assert [trial.user_attrs["lepton_number"] for trial in trials] == [0, 1, 2]
    assert name in session.said[0]


def test_a_password_is_not_written_down(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = optuna.storages.InMemoryStorage()
    monkeypatch.setattr(optuna_storage, "open_storage", lambda url: storage)
    with told(asked(session, optuna_storage="postgresql://me:secret@host/db")):
        pass
    assert not any(b"secret" in path.read_bytes() for path in session.folder.path.iterdir())


def test_a_storage_that_breaks_in_the_middle_costs_a_warning(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(optuna.storages.InMemoryStorage):
        def create_new_trial(self, *arguments: Any, **options: Any) -> int:
            raise OSError("the server is gone")

    monkeypatch.setattr(optuna_storage, "open_storage", lambda url: Breaking())
    with told(asked(session, optuna_storage="anything")):
        session.ledger.record(EventKind.TRIAL, "0", make_trial(0).to_event())
        session.ledger.record(EventKind.TRIAL, "1", make_trial(1).to_event())
    (warning,) = [said for said in session.said if said.startswith("warning")]
    assert "failed: the server is gone" in warning


def test_callbacks_are_looked_for_before_anything_is_made(tmp_path: Path) -> None:
    config = RunConfig("digits", tmp_path / "run", callbacks=("tensorbord",))
    for verb in (run.run, run.search):
        with pytest.raises(ConfigError, match="not a callback"):
            verb(config)
    assert not (tmp_path / "run").exists()


def test_a_database_that_is_not_there_ends_the_command(session: Any) -> None:
    with (
        pytest.raises(MachineError, match="cannot be used"),
        told(asked(session, optuna_storage="sqlite:////nowhere/x.db")),
    ):
        pass


def test_facts_are_flat_and_without_paths(session: Any) -> None:
    facts = observers.facts(session.folder.definition())
    assert facts["objectives"] == "accuracy, macs"
    assert facts["limit max_size_bytes"] == 9_000
    assert str(session.folder.path) not in str(facts)


def test_a_real_search_and_its_mirror_say_the_same(session: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    job = search_request(tmp_path / "run", session.ledger, trials=3)
    asked(session, optuna_storage=url, objectives=job.config.objectives)
    with told(session):
        found = search(job, InlineWorkers())
    (name,) = optuna.get_all_study_names(url)
    study = optuna.load_study(study_name=name, storage=url)
    mirrored = [t for t in study.trials if t.user_attrs["lepton_role"] == "trial"]
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
