from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from lepton_automl.errors import DataError


class Board:
    """Serves twice, then the user presses Ctrl-C."""

    url, study = "http://127.0.0.1:8080/", "mine"
    made: list[Any] = []  # noqa: RUF012

    def __init__(self, folder: Any, port: int) -> None:
        self.folder, self.port, self.served, self.is_closed = folder, port, 0, False
        self.made.append(self)

    def serve(self) -> None:
        self.served += 1
        if self.served == 2:
            raise KeyboardInterrupt

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> type[Board]:
    fake = ModuleType("lepton_automl.pipeline.dashboard")
    fake.Dashboard = Board  # type: ignore[attr-defined]
    monkeypatch.setattr(Board, "made", [])
    monkeypatch.setitem(sys.modules, "lepton_automl.pipeline.dashboard", fake)
    return Board


def test_the_address_is_printed_and_ctrl_c_ends_it(lepton, board, run_folder):
    done = lepton("dashboard", str(run_folder / "artifact"), "--port", "9000")
    assert done.exit_code == 0
    assert "http://127.0.0.1:8080/" in done.out
    assert "this machine only" in done.out
    (made,) = board.made
    assert (made.folder.path, made.port) == (run_folder, 9000)
    assert made.is_closed


def test_json_is_one_object(lepton, board, run_folder):
    body = json.loads(lepton("dashboard", str(run_folder), "--json").out)
    assert body == {"url": board.url, "study": "mine"}


def test_a_missing_package_exits_with_7_and_the_install_command(lepton, run_folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "lepton_automl.pipeline.dashboard", raising=False)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    done = lepton("dashboard", str(run_folder))
    assert done.exit_code == 7
    assert "pip install 'lepton-automl[dashboard]'" in done.err


def test_an_error_prints_its_message_and_exit_code(lepton, board, run_folder, monkeypatch):
    def fail(self: Any) -> None:
        raise DataError("gone", fix="bring it back")

    monkeypatch.setattr(Board, "serve", fail)
    assert lepton("dashboard", str(run_folder)).exit_code == 3
    assert board.made[0].is_closed


def test_a_path_without_a_run_and_an_invalid_port_are_rejected(lepton, board, run_folder, tmp_path):
    assert lepton("dashboard", str(tmp_path / "nothing")).exit_code == 3
    assert lepton("dashboard", str(run_folder), "--port", "70000").exit_code == 2
