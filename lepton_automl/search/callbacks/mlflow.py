"""MLflow: a run per trial, in RUN/mlflow.db unless MLFLOW_TRACKING_URI is set."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # Or importing it opens a connection.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # Or it writes over the progress.

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from lepton_automl.search.callbacks import Callback, End, Run, Rung

EXPERIMENT = "lepton"
RUN_TAG, TRIAL_TAG = "lepton.run", "lepton.trial"
"""Tags of an MLflow run: the run of lepton, and the number of the trial."""


class Mlflow(Callback):
    """The search is a parent run with the hypervolume; each trial is a child run.

    `mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db` shows them.
    """

    failures = (MlflowException, *Callback.failures)

    def start(self, run: Run) -> int:
        """Create or resume the run of that name."""
        local = f"sqlite:///{run.folder.resolve() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or local)
        self._name, self._children = run.name, dict[int, str]()
        self._experiment = self._experiment_of(run)
        for known in self._known():
            if TRIAL_TAG in known.data.tags:
                self._children[int(known.data.tags[TRIAL_TAG])] = known.info.run_id
        parents = [known for known in self._known() if TRIAL_TAG not in known.data.tags]
        if parents:
            self._parent = parents[0].info.run_id
            return len(self._client.get_metric_history(self._parent, "hypervolume"))
        made = self._client.create_run(
            self._experiment, run_name=run.name, tags={RUN_TAG: run.name}
        )
        self._parent = made.info.run_id
        params = [Param(key, str(value)[:500]) for key, value in run.facts.items()]
        self._client.log_batch(self._parent, params=params)
        return 0

    def rung(self, rung: Rung) -> None:
        """Log the accuracy to the run of the trial and the hypervolume to the parent."""
        if rung.accuracy is not None:
            now = int(time.time() * 1000)
            metric = Metric("accuracy", rung.accuracy, now, rung.epochs)
            self._client.log_batch(self._child(rung), metrics=[metric])
        self._client.log_metric(self._parent, "hypervolume", rung.hypervolume, step=rung.step)

    def end(self, end: End) -> None:
        """Mark all runs as finished."""
        if end.winner is not None:
            self._client.set_tag(self._parent, "lepton.winner", str(end.winner))
        for run_id in (*self._children.values(), self._parent):
            self._client.set_terminated(run_id)

    def _experiment_of(self, run: Run) -> str:
        known = self._client.get_experiment_by_name(EXPERIMENT)
        if known is not None:
            return str(known.experiment_id)
        place = None
        if not os.environ.get(
            "MLFLOW_TRACKING_URI"
        ):  # Otherwise it would be in the current directory.
            place = (run.folder.resolve() / "mlruns").as_uri()
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=place))

    def _known(self) -> list[Any]:
        wanted = f"tags.`{RUN_TAG}` = '{self._name}'"
        return list(self._client.search_runs([self._experiment], wanted, max_results=50_000))

    def _child(self, rung: Rung) -> str:
        if rung.number not in self._children:
            tags = {RUN_TAG: self._name, TRIAL_TAG: str(rung.number)}
            tags["mlflow.parentRunId"] = self._parent
            name = f"trial {rung.number}"
            made = self._client.create_run(self._experiment, run_name=name, tags=tags)
            self._children[rung.number] = made.info.run_id
            params = [Param(key, str(value)) for key, value in rung.params.items()]
            now = int(time.time() * 1000)
            costs = [Metric(key, float(value), now, 0) for key, value in rung.costs.items()]
            self._client.log_batch(made.info.run_id, metrics=costs, params=params)
        return self._children[rung.number]
