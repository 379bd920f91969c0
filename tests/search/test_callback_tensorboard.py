from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lepton_automl.search import callbacks
from lepton_automl.search.callbacks import End
from tests.helpers import callbacks as fakes


class SummaryWriter:
    """Remembers what torch's own would write."""

    made: list[SummaryWriter] = []  # noqa: RUF012

    def __init__(self, log_dir: str) -> None:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        (Path(log_dir) / "events.out.tfevents.1").write_text("")
        self.scalars: dict[str, dict[int, float]] = {}
        self.hparams: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self.is_closed = False
        self.made.append(self)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.setdefault(tag, {})[global_step] = scalar_value

    def add_text(self, tag: str, text_string: str) -> None:
        self.texts[tag] = text_string

    def add_hparams(self, hparam_dict: Any, metric_dict: Any, *, run_name: str) -> None:
        assert all(isinstance(v, bool | str | float | int) for v in hparam_dict.values())
        self.hparams[run_name] = (hparam_dict, metric_dict)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def callback(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setattr(SummaryWriter, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.delitem(sys.modules, "lepton_automl.search.callbacks.tensorboard", raising=False)
    yield callbacks.load("tensorboard")
    sys.modules.pop("lepton_automl.search.callbacks.tensorboard", None)


def test_rungs_are_scalars_and_candidates_hyperparameters(callback: Any, tmp_path: Path) -> None:
    assert callback.start(fakes.run(tmp_path)) == 0
    callback.rung(fakes.rung(0, 4, 0.75))
    callback.rung(fakes.rung(1, 5, 0.5))
    callback.rung(fakes.rung(2, 4, 0.875, epochs=3))
    callback.rung(fakes.rung(3, 6, None))
    callback.end(End(4, "the best"))
    (writer,) = SummaryWriter.made
    assert writer.scalars["accuracy"] == {0: 0.75, 1: 0.5, 2: 0.875}
    assert writer.scalars["best accuracy"] == {0: 0.75, 1: 0.75, 2: 0.875, 3: 0.875}
    assert writer.scalars["cost/size_bytes"] == dict.fromkeys(range(4), 9000.0)
    assert list(writer.hparams) == ["trial-00004", "trial-00005"]
    assert writer.hparams["trial-00004"][1]["final/accuracy"] == 0.875
    assert "trial 4" in writer.texts["winner"]
    assert writer.is_closed


def test_a_second_session_begins_anew_with_nothing_of_the_first(
    callback: Any, tmp_path: Path
) -> None:
    callback.start(fakes.run(tmp_path))
    (tmp_path / "tensorboard" / "trial-00001").mkdir()
    callback.start(fakes.run(tmp_path))
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["events.out.tfevents.1"]


def test_the_real_package_writes_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    real = callbacks.load("tensorboard")
    real.start(fakes.run(tmp_path))
    real.rung(fakes.rung(0, 4, 0.75))
    real.end(End())
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert list((tmp_path / "tensorboard" / "trial-00004").glob("events.out.tfevents.*"))
