"""A real search that is killed, and continued from its store in another run folder."""

from __future__ import annotations

import os
import signal

import pytest

from lepton_automl.runs import store as stores
from lepton_automl.runs import store_copy, stored_run
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.store import Store
from lepton_automl.search.loop import search
from tests.helpers.search import InlineWorkers, search_request
from tests.helpers.stored_runs import command

TRIALS = 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(store_copy, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.5)
    for module in (stores, store_copy, stored_run):
        monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)


def searched(folder, ledger):
    """Search in a folder; the tasks of this process."""
    workers = InlineWorkers()
    found = search(search_request(folder.path, ledger, trials=TRIALS), workers)
    return found, workers.tasks


def results(ledger):
    """Events that do not depend on time, each with its key."""
    kinds = (EventKind.TRIAL, EventKind.RUNG, EventKind.HYPERVOLUME, EventKind.WINNER)
    return {
        (kind, key): {k: v for k, v in value.items() if k not in ("seconds", "pictures_per_second")}
        for kind in kinds
        for key, value in ledger.all(kind).items()
    }


def killed_in_a_search(place, path, generation):
    """In a child process: a search that is killed once it has made so many generations."""
    advance = Store.advance

    def advance_or_die(self, manifest):
        advance(self, manifest)
        if manifest.events >= generation:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if not pid:
        try:
            Store.advance = advance_or_die
            with command(place, path) as (folder, ledger):
                searched(folder, ledger)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)


def test_a_killed_search_goes_on_from_its_store_with_the_same_winner_bit_for_bit(tmp_path):
    with command(str(tmp_path / "other" / "store"), tmp_path / "undisturbed" / "run") as (
        folder,
        ledger,
    ):
        undisturbed, tasks = searched(folder, ledger)
        expected = results(ledger)
        best = {path.name: path.read_bytes() for path in folder.best.iterdir() if path.is_file()}
    place = str(tmp_path / "store")
    for number, events in enumerate((6, 14)):
        killed_in_a_search(place, tmp_path / f"machine{number}" / "run", events)
        store = Store.at(place, 1.0)
        acknowledged = store.read_log(store.latest()).rows
        assert len(acknowledged) >= events
    with command(place, tmp_path / "last" / "run") as (folder, ledger):
        assert ledger.rows_after(0) == acknowledged
        found, again = searched(folder, ledger)
        assert results(ledger) == expected
        got = {path.name: path.read_bytes() for path in folder.best.iterdir() if path.is_file()}
    assert found.number == undisturbed.number
    assert got == best
    # What was acknowledged is not trained again.
    known = {row[2] for row in acknowledged if row[1] == EventKind.RUNG}
    assert known
    assert not known & {task.key for task in again}
    assert len(again) < len(tasks)
