"""A search over hosts that die, moved by its store alone from one machine to the next."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from lepton_automl.runs import store as stores
from lepton_automl.runs import store_copy, stored_run
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.runs.store import Store
from lepton_automl.search.loop import search
from lepton_automl.search.request import SearchResult
from tests.faults.hosts import (
    KILL_HOST,
    KILL_WORKER,
    TRIALS,
    OneAtATime,
    Strike,
    Undisturbed,
    results,
    strike_hosts,
    write_hosts,
)
from tests.helpers.search import search_request
from tests.helpers.stored_runs import command


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.5)
    for module in (stores, store_copy, stored_run):
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)


def searched(
    machine: Path, run: Path, ledger: Ledger, strikes: Sequence[Strike]
) -> tuple[SearchResult, OneAtATime]:
    """Search over two hosts of a machine, some of which are struck."""
    job, done = search_request(run, ledger, trials=TRIALS), threading.Event()
    with OneAtATime(write_hosts(machine, run), job.folder.checkpoints) as executor:
        striking = threading.Thread(
            target=strike_hosts, args=(executor, strikes, done), daemon=True
        )
        striking.start()
        try:
            return search(job, executor), executor
        finally:
            done.set()
            striking.join()


def killed(place: str, machine: Path, events: int, strikes: Sequence[Strike]) -> None:
    """In a child process: a search that is killed once its store has so many events."""
    advance = Store.advance

    def advance_or_die(self, manifest):  # type: ignore[no-untyped-def]
        advance(self, manifest)
        if manifest.events >= events:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if not pid:
        try:
            Store.advance = advance_or_die  # type: ignore[method-assign]
            with command(place, machine / "run") as (folder, ledger):
                searched(machine, folder.path, ledger, strikes)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)


@pytest.mark.slow
def test_a_search_is_moved_by_its_store_while_its_hosts_die(tmp_path: Path) -> None:
    expected = Undisturbed(tmp_path / "undisturbed")
    place = str(tmp_path / "store")
    for number, events in enumerate((5, 12)):
        machine = tmp_path / f"machine{number}"
        machine.mkdir()
        killed(place, machine, events, [Strike(KILL_HOST), Strike(KILL_WORKER)])
    store = Store.at(place, 1.0)
    acknowledged = store.read_log(store.latest()).rows
    trained = {row[2] for row in acknowledged if row[1] == EventKind.RUNG}
    assert trained
    machine = tmp_path / "last"
    machine.mkdir()
    with command(place, machine / "run") as (folder, ledger):
        assert ledger.rows_after(0) == acknowledged
        strikes = [Strike(KILL_HOST), Strike(KILL_HOST)]
        found, executor = searched(machine, folder.path, ledger, strikes)
        assert results(ledger) == expected.results
    assert (found.number, found.best.digest) == (expected.number, expected.digest)
    assert executor.begun
    assert not trained & set(executor.begun), "what the store had is not trained again"
    assert len(executor.acknowledged) == len(set(executor.acknowledged))
