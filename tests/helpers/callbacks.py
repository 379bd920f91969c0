"""What a callback is told in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton_automl.search.callbacks import Run, Rung

COSTS = {"size_bytes": 9000.0, "latency_ms": 0.25}


def run(folder: Path) -> Run:
    """A run in `folder`."""
    return Run("digits-ab12cd", folder, {"seed": 3, "objectives": "accuracy, size_bytes"})


def rung(step: int, number: int, accuracy: float | None = 0.5, **changes: Any) -> Rung:
    """A finished rung."""
    about: dict[str, Any] = {
        "rung": "0",
        "epochs": 1,
        "failed": "" if accuracy is not None else "diverged",
        "params": {"stem.out": 8, "train.optimizer": "sgd"},
        "costs": COSTS,
        "hypervolume": 0.1 * step,
        "seconds": 0.2,
    }
    return Rung(step, number, accuracy=accuracy, **(about | changes))
