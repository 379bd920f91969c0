from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lepton_automl.search import callbacks
from lepton_automl.search.callbacks import End
from tests.helpers import callbacks as fakes


class FakeRun:
    """Remembers what was logged."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked, self.step = asked, 0
        self.rows: dict[int, Any] = {}
        self.summary: dict[str, Any] = {}
        self.is_finished = False

    def log(self, data: dict[str, Any], step: int) -> None:
        self.rows[step] = data

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake: Any = ModuleType("wandb")
    fake.Error = type("Error", (Exception,), {})
    fake.Settings = lambda **settings: settings
    fake.runs = []

    def init(**asked: Any) -> FakeRun:
        fake.runs.append(FakeRun(asked))
        return fake.runs[-1]

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delitem(sys.modules, "lepton_automl.search.callbacks.wandb", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield fake
    sys.modules.pop("lepton_automl.search.callbacks.wandb", None)


def test_it_is_offline_and_in_the_run_folder_unless_the_user_says_otherwise(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said, mode in ((None, "offline"), ("online", "online")):
        if said:
            monkeypatch.setenv("WANDB_MODE", said)
        callbacks.load("wandb").start(fakes.run(tmp_path))
        asked = wandb.runs[-1].asked
        assert (asked["mode"], asked["dir"], asked["id"]) == (mode, str(tmp_path), "digits-ab12cd")
        assert asked["config"]["seed"] == 3


def test_a_rung_is_a_row_and_the_winner_the_summarys(wandb: Any, tmp_path: Path) -> None:
    callback = callbacks.load("wandb")
    assert callback.start(fakes.run(tmp_path)) == 0
    callback.rung(fakes.rung(0, 4, 0.75))
    callback.rung(fakes.rung(1, 5, None))
    callback.end(End(4, "the best"))
    (run,) = wandb.runs
    assert run.rows[0]["accuracy"] == 0.75
    assert run.rows[0]["cost/latency_ms"] == 0.25
    assert run.rows[0]["params/stem.out"] == 8
    assert "accuracy" not in run.rows[1]
    assert run.summary["winner"] == 4
    assert run.is_finished


def test_an_offline_run_is_written_anew_and_others_are_left_alone(
    wandb: Any, tmp_path: Path
) -> None:
    for name in ("digits-ab12cd", "another-run"):
        (tmp_path / "wandb" / f"offline-run-20260101_000000-{name}").mkdir(parents=True)
    callbacks.load("wandb").start(fakes.run(tmp_path))
    (left,) = (tmp_path / "wandb").iterdir()
    assert left.name.endswith("another-run")


def test_an_online_run_goes_on_where_it_was(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(FakeRun, "__init__", lambda self, asked: setattr(self, "step", 7))
    assert callbacks.load("wandb").start(fakes.run(tmp_path)) == 7
