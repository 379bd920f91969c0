"""A checkpoint of a training in progress, from which it continues bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lepton_automl.core import files

_INTERVAL_SECONDS = 20.0
"""Seconds between two checkpoints: the most that a killed training loses."""

StateDict = dict[str, Tensor]


class Stateful(Protocol):
    """A part of a training with state that changes from step to step (a module, an optimizer)."""

    def state_dict(self) -> Mapping[str, Any]:
        """All tensors that decide the steps to come, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        """Restore the state that `state_dict` returned."""


class Checkpoint:
    """A file with the state of one training.

    Parameters
    ----------
    path : Path
        The file, in safetensors' format; replaced as a whole.
    key : str
        Hash of everything that decides the training. A file with another key, or a damaged one,
        is ignored.
    interval_seconds : float, optional
        Seconds between two writes.
    is_writer : bool
        Whether this process writes; of a data-parallel training only the first one does.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        interval_seconds: float | None = None,
        *,
        is_writer: bool = True,
    ) -> None:
        self.path, self.key, self._is_writer = path, key, is_writer
        self._interval = _INTERVAL_SECONDS if interval_seconds is None else interval_seconds
        self._last_save = time.monotonic()

    def save_if_due(self, step: int, parts: Mapping[str, Stateful]) -> None:
        """Write the state after `step` batches if the interval has passed.

        Raises
        ------
        MachineError
            If the file cannot be written.
        """
        now = time.monotonic()
        if not self._is_writer or now - self._last_save < self._interval:
            return
        tensors = {
            f"{name}/{key}": tensor.detach().cpu().contiguous()
            for name, part in parts.items()
            for key, tensor in part.state_dict().items()
        }
        files.write(self.path, save(tensors, {"key": self.key, "step": str(step)}))
        self._last_save = time.monotonic()

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Load the state into all parts; the batches done by then, 0 without a valid file."""
        try:
            if not self.path.is_file():
                return 0
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0
        for name, part in parts.items():
            prefix = f"{name}/"
            part.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        return int(metadata["step"])


class _NoCheckpoint(Checkpoint):
    """Never writes and never resumes."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), "", is_writer=False)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        del parts
        return 0


NO_CHECKPOINT = _NoCheckpoint()
"""For trainings that start from their beginning when they are run again."""
