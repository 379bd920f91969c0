from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lepton_automl.events import Event
from lepton_automl.search import watching
from lepton_automl.search.ledger import Ledger
from lepton_automl.search.watching import watched


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
    assert event.message.startswith("warning: a friend failed: disk gone; the search goes on")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_an_observer_is_shown_and_ends_no_search(ledger: Ledger) -> None:
    bad, told = Remembering(ZeroDivisionError()), list[Event]()
    with watched(ledger, [bad], told.append):
        ledger.record("kind", "2", {})
    (event,) = told
    assert "stopped because of a bug" in event.message


def test_nobody_waits_for_a_slow_observer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Remembering):
        def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
            time.sleep(1)

    monkeypatch.setattr(watching, "LAST_SECONDS", 0.1)
    told, begun = list[Event](), time.monotonic()
    with watched(ledger, [Slow()], told.append):
        ledger.record("kind", "1", {})
        assert time.monotonic() - begun < 0.5
    assert time.monotonic() - begun < 0.9
    assert "is not done after" in told[0].message
