from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from lepton_automl.core.events import Event
from lepton_automl.runs.ledger import Ledger, LedgerView
from lepton_automl.runs.live_status import FOUND, HEART, MESSAGES, PROGRESS

KEPT = {"trials": 3}


def beat(ledger: Ledger) -> None:
    """What the heartbeat does."""
    with ledger._lock:
        ledger._save_seconds()


def test_notes_are_read_by_others_and_replaced(tmp_path: Path) -> None:
    begun = time.time()
    ledger, count = Ledger(tmp_path / "ledger.db"), iter(range(100))
    ledger.live_status.publish("command", {"words": "lepton run"})
    ledger.live_status.publish_from("workers", lambda: {"first": next(count)})
    with LedgerView(ledger.path) as view:
        beat(ledger)
        before = view.live_entries()
        beat(ledger)
        after = view.live_entries()
    ledger.close()
    assert before["command"].value == after["command"].value == {"words": "lepton run"}
    assert after["command"].at == before["command"].at, "what has not changed is not written"
    assert after["workers"].value["first"] > before["workers"].value["first"]
    assert begun <= before[HEART].at <= after[HEART].at <= time.time()


def test_events_are_noted_and_passed_on(tmp_path: Path) -> None:
    ledger, told = Ledger(tmp_path / "ledger.db"), list[Event]()
    emit = ledger.live_status.recorded(told.append)
    for number in range(9):
        emit(Event("search", f"message {number}"))
    emit(Event("search", "trial 2", 3.0, 10.0, {"trials": 3}))
    emit(Event("compress", "step", 1.0, 4.0, {"odd": tmp_path}))
    beat(ledger)
    with LedgerView(ledger.path) as view:
        notes = view.live_entries()
    ledger.close()
    assert len(told) == 11
    messages = [said["message"] for said in notes[MESSAGES].value["last"]]
    assert messages == [f"message {number}" for number in range(3, 9)]
    assert notes[PROGRESS].value == {"stage": "compress", "message": "step", "done": 1, "total": 4}
    assert notes[FOUND].value == KEPT


def test_a_new_command_forgets_the_notes_of_the_old_one_but_what_it_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.live_status.publish("workers", {"first": 1})
    ledger.live_status.publish(FOUND, KEPT)
    ledger.close()
    with LedgerView(tmp_path / "ledger.db") as view:
        assert view.live_entries()["workers"].value == {"first": 1}
    Ledger(tmp_path / "ledger.db").close()
    with LedgerView(tmp_path / "ledger.db") as view:
        assert set(view.live_entries()) == {FOUND, HEART}
        assert view.counts() == {}, "notes are no events"


def test_a_ledger_without_notes_has_none(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    database = sqlite3.connect(tmp_path / "ledger.db")
    database.execute("DROP TABLE live")
    database.close()
    with LedgerView(tmp_path / "ledger.db") as view:
        assert view.live_entries() == {}
