from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

from lepton_automl.config import Limits
from lepton_automl.errors import DataError, MachineError
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger
from tests.helpers.search import make_trial


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with an optuna-dashboard that answers how many trials its storage has."""
    fake = ModuleType("optuna_dashboard")

    def wsgi(storage: Any) -> Any:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            (summary,) = optuna.get_all_study_summaries(storage)
            return [f"{summary.study_name} {summary.n_trials}".encode()]

        return app

    fake.wsgi = wsgi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optuna_dashboard", fake)
    monkeypatch.delitem(sys.modules, "lepton_automl.pipeline.dashboard", raising=False)
    from lepton_automl.pipeline import dashboard as module

    yield module
    sys.modules.pop("lepton_automl.pipeline.dashboard", None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "mine")
    about = ("digits", "", False, "ab", "tiny", "cd", ("accuracy", "macs"), 7, "x86-any", "size")
    with made.claimed(Definition(*about, Limits(max_size_bytes=9_000)), fresh=False):
        pass
    return made


def answer(board: Any) -> str:
    """What a browser gets, which is another process: here nobody may connect."""
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    command = [sys.executable, "-c", program, board.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as browser:
        while browser.poll() is None:
            board.serve()
        assert browser.stdout is not None
        return browser.stdout.read().strip()


def test_it_shows_a_run_and_its_new_trials(
    dashboard: Any, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "_POLL_SECONDS", 0.05)
    ledger = Ledger(folder.ledger, run_id=folder.definition().run_id)
    ledger.record(EventKind.TRIAL, "0", make_trial(0).to_event())
    board = dashboard.Dashboard(folder, 0)
    before = set(folder.path.iterdir())
    assert answer(board) == "mine 1"
    assert set(folder.path.iterdir()) == before
    ledger.record(EventKind.TRIAL, "1", make_trial(1).to_event())
    time.sleep(0.1)
    board.serve()
    assert answer(board) == "mine 2"
    board.close()
    ledger.close()


def test_it_listens_on_this_machine_only(dashboard: Any, folder: RunFolder) -> None:
    Ledger(folder.ledger, run_id=folder.definition().run_id).close()
    board = dashboard.Dashboard(folder, 0)
    assert board.url.startswith("http://127.0.0.1:")
    assert board._server.socket.getsockname()[0] == "127.0.0.1"
    port = board._server.server_port
    with pytest.raises(MachineError, match=f"port {port}") as caught:
        dashboard.Dashboard(folder, port)
    assert "--port" in caught.value.fix
    board.close()


def test_a_run_that_has_not_begun_is_an_error(dashboard: Any, folder: RunFolder) -> None:
    with pytest.raises(DataError, match="has not begun"):
        dashboard.Dashboard(folder, 0)
