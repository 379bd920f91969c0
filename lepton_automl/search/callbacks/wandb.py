"""Weights & Biases: offline in RUN/wandb unless the user has set WANDB_MODE."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # Or importing it may open a connection.

import wandb

from lepton_automl.search.callbacks import Callback, End, Run, Rung


class Wandb(Callback):
    """Accuracies, costs and hypervolume by rung; `wandb sync RUN/wandb/offline-*` uploads them.

    An offline run is written anew in each session, an online one goes on where it was.
    """

    failures = (wandb.Error, *Callback.failures)

    def start(self, run: Run) -> int:
        """Begin, or go on with, the run of that name."""
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":
            for earlier in run.folder.glob(f"wandb/offline-run-*-{run.name}"):
                shutil.rmtree(earlier, ignore_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lepton"),
            id=run.name,
            name=run.name,
            dir=str(run.folder),
            mode=mode,
            resume="allow",
            config=dict(run.facts),
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        return int(self._run.step)

    def rung(self, rung: Rung) -> None:
        """One row at the step of the rung."""
        row = {"trial": rung.number, "epochs": rung.epochs, "hypervolume": rung.hypervolume}
        row |= {f"cost/{name}": value for name, value in rung.costs.items()}
        row |= {f"params/{name}": value for name, value in rung.params.items()}
        if rung.accuracy is not None:
            row["accuracy"] = rung.accuracy
        self._run.log(row, step=rung.step)

    def end(self, end: End) -> None:
        """The winner becomes the summary's."""
        self._run.summary.update({"winner": end.winner, "reason": end.reason})
        self._run.finish()
