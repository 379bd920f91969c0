"""TensorBoard: event files in RUN/tensorboard; see them with `tensorboard --logdir RUN`."""

from __future__ import annotations

import shutil
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lepton_automl.search.callbacks import Callback, End, Run, Rung
from lepton_automl.text import printable


class TensorBoard(Callback):
    """Accuracy, costs and hypervolume of each result; at the end all trials for the HParams tab.

    Event files can only be appended to, so each session writes them again.
    """

    def start(self, run: Run) -> int:
        """Start with an empty folder."""
        folder = run.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._best = 0.0
        self._latest: dict[int, Rung] = {}
        facts = "\n".join(
            f"    {key} = {printable(str(value))}" for key, value in run.facts.items()
        )
        self._writer.add_text("run", facts)
        return 0

    def rung(self, rung: Rung) -> None:
        """Write scalars at the step of the result."""
        if rung.accuracy is not None:
            self._best = max(self._best, rung.accuracy)
            self._latest[rung.number] = rung
            self._scalar("accuracy", rung.accuracy, rung)
        self._scalar("best accuracy", self._best, rung)
        self._scalar("hypervolume", rung.hypervolume, rung)
        for name, value in rung.costs.items():
            self._scalar(f"cost/{name}", value, rung)
        self._writer.flush()

    def end(self, end: End) -> None:
        """Write parameters and metrics of each trial."""
        for number, rung in self._latest.items():
            params: dict[str, Any] = dict(rung.params)
            metrics = {"final/accuracy": rung.accuracy, **_prefixed(rung.costs)}
            self._writer.add_hparams(params, metrics, run_name=f"trial-{number:05d}")
        if end.winner is not None:
            self._writer.add_text("winner", f"trial {end.winner}, {end.reason}")
        self._writer.close()

    def _scalar(self, name: str, value: float, rung: Rung) -> None:
        self._writer.add_scalar(name, value, rung.step)


def _prefixed(costs: Any) -> dict[str, float]:
    return {f"final/{name}": float(value) for name, value in costs.items()}
