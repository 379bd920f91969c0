from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lepton_automl.search import callbacks
from lepton_automl.search.callbacks import End
from tests.helpers import callbacks as fakes


class Server:
    """What MLflow keeps, and its client's methods that are used."""

    def __init__(self) -> None:
        self.uri = ""
        self.runs: dict[str, Any] = {}
        self.experiments: dict[str, Any] = {}

    def __call__(self, tracking_uri: str) -> Server:
        self.uri = tracking_uri
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return self.experiments.get(name)

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.experiments[name] = SimpleNamespace(experiment_id="1", place=artifact_location)
        return "1"

    def search_runs(self, experiment_ids: list[str], filter_string: str, max_results: int) -> Any:
        assert experiment_ids == ["1"]
        assert filter_string == "tags.`lepton.run` = 'digits-ab12cd'"
        return list(self.runs.values())

    def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> Any:
        run = SimpleNamespace(
            info=SimpleNamespace(run_id=f"id {len(self.runs)}", run_name=run_name),
            data=SimpleNamespace(tags=tags),
            metrics=[],
            params={},
            is_finished=False,
        )
        self.runs[run.info.run_id] = run
        return run

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.runs[run_id].metrics += [(m.key, m.value, m.step) for m in metrics]
        self.runs[run_id].params |= {p.key: p.value for p in params}

    def log_metric(self, run_id: str, key: str, value: float, step: int) -> None:
        self.runs[run_id].metrics.append((key, value, step))

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [m for m in self.runs[run_id].metrics if m[0] == key]

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].data.tags[key] = value

    def set_terminated(self, run_id: str) -> None:
        self.runs[run_id].is_finished = True

    def named(self, name: str) -> Any:
        (run,) = [run for run in self.runs.values() if run.info.run_name == name]
        return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    known = Server()
    package, entities, errors = (
        ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.exceptions")
    )
    package.MlflowClient = known  # type: ignore[attr-defined]
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(  # type: ignore[attr-defined]
        key=key, value=value, step=step
    )
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)  # type: ignore[attr-defined]
    errors.MlflowException = type("MlflowException", (Exception,), {})  # type: ignore[attr-defined]
    for module in (package, entities, errors):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "lepton_automl.search.callbacks.mlflow", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in (("MLFLOW_DISABLE_TELEMETRY", "true"), ("MLFLOW_LOGGING_LEVEL", "ERROR")):
        monkeypatch.setenv(name, value)
    yield known
    sys.modules.pop("lepton_automl.search.callbacks.mlflow", None)


def test_it_stays_in_the_run_folder_unless_the_user_names_a_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks.load("mlflow").start(fakes.run(tmp_path))
    assert server.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert server.experiments["lepton"].place == (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    server.experiments.clear()
    callbacks.load("mlflow").start(fakes.run(tmp_path))
    assert server.uri == "http://server"
    assert server.experiments["lepton"].place is None


def test_a_candidate_is_a_run_below_the_searchs(server: Server, tmp_path: Path) -> None:
    callback = callbacks.load("mlflow")
    assert callback.start(fakes.run(tmp_path)) == 0
    callback.rung(fakes.rung(0, 4, 0.5))
    callback.rung(fakes.rung(1, 4, 0.75, epochs=3))
    callback.rung(fakes.rung(2, 5, None))
    callback.end(End(4, "the best"))
    parent, child = server.named("digits-ab12cd"), server.named("trial 4")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [m for m in child.metrics if m[0] == "accuracy"] == [
        ("accuracy", 0.5, 1),
        ("accuracy", 0.75, 3),
    ]
    assert child.params["stem.out"] == "8"
    assert ("size_bytes", 9000.0, 0) in child.metrics
    assert [m[2] for m in parent.metrics] == [0, 1, 2]
    assert parent.data.tags["lepton.winner"] == "4"
    assert all(run.is_finished for run in server.runs.values())


def test_a_second_session_goes_on_in_the_same_runs(server: Server, tmp_path: Path) -> None:
    callback = callbacks.load("mlflow")
    callback.start(fakes.run(tmp_path))
    callback.rung(fakes.rung(0, 4, 0.5))
    again = callbacks.load("mlflow")
    assert again.start(fakes.run(tmp_path)) == 1
    again.rung(fakes.rung(1, 4, 0.75, epochs=3))
    assert len(server.runs) == 2
