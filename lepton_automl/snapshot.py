"""Snapshot: a training half-way, kept on disk, from which it goes on bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lepton_automl import durable

SECONDS_BETWEEN = 20.0
"""A killed training loses at most about so much; a shorter one keeps nothing."""

State = dict[str, Tensor]


class Stateful(Protocol):
    """A part of a training that changes from step to step."""

    def state(self) -> State:
        """Everything that decides what it does from now on, by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class Snapshot:
    """Where the state of one training is kept.

    Parameters
    ----------
    path : Path
        The file, in safetensors' format; replaced as a whole.
    key : str
        Names everything that the training is made from. What was kept under another key, or is
        damaged, counts as nothing.
    seconds_between : float, optional
        Between two times of keeping.
    is_writer : bool
        Whether this process keeps anything; of several in one training the first does.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        seconds_between: float | None = None,
        *,
        is_writer: bool = True,
    ) -> None:
        self.path, self.key, self._is_writer = path, key, is_writer
        self._between = SECONDS_BETWEEN if seconds_between is None else seconds_between
        self._kept = time.monotonic()

    def keep(self, step: int, parts: Mapping[str, Stateful]) -> None:
        """Write the state after `step` batches where it is time to.

        Raises
        ------
        MachineError
            If the file cannot be written.
        """
        now = time.monotonic()
        if not self._is_writer or now - self._kept < self._between:
            return
        tensors = {
            f"{name}/{key}": tensor.detach().cpu().contiguous()
            for name, part in parts.items()
            for key, tensor in part.state().items()
        }
        durable.write(self.path, save(tensors, {"key": self.key, "step": str(step)}))
        self._kept = time.monotonic()

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Put all parts where they were; batches done by then, 0 where nothing is kept."""
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                if about.get("key") != self.key:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return 0
        for name, part in parts.items():
            start = f"{name}/"
            part.restore(
                {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            )
        return int(about["step"])


class _Nowhere(Snapshot):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), "", is_writer=False)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Nothing is done yet."""
        del parts
        return 0


NOWHERE = _Nowhere()
"""For trainings that are not to be gone on with."""
