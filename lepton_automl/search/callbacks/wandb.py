"""Weights & Biases: offline in RUN/wandb unless WANDB_MODE is set."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # Or importing it may open a connection.

import wandb

from lepton_automl.search.callbacks import Callback, End, Run, Rung


class Wandb(Callback):
    """Accuracy, costs and hypervolume of each result; `wandb sync RUN/wandb/*` uploads them.

    An offline run is written again by each session, an online run is resumed.
    """

    failures = (wandb.Error, *Callback.failures)

    def start(self, run: Run) -> int:
        """Create or resume the run of that name."""
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
        """Log one row at the step of the result."""
        row = {"trial": rung.number, "epochs": rung.epochs, "hypervolume": rung.hypervolume}
        row |= {f"cost/{name}": value for name, value in rung.costs.items()}
        row |= {f"params/{name}": value for name, value in rung.params.items()}
        if rung.accuracy is not None:
            row["accuracy"] = rung.accuracy
        self._run.log(row, step=rung.step)

    def end(self, end: End) -> None:
        """Write the winner to the summary."""
        self._run.summary.update({"winner": end.winner, "reason": end.reason})
        self._run.finish()
