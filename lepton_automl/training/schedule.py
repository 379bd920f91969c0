"""Position of a training in its learning-rate schedule, which may have to be passed faster."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from lepton_automl.training.distributed import SINGLE_PROCESS, ProcessGroup

ScheduleChange = tuple[int, float]
"""After so many batches every batch is so many steps of the schedule."""

_WINDOW_SECONDS, _WINDOW_SHARE = 2.0, 0.05
"""The speed is measured over so many seconds, or over this share of the time left."""
_LEAST_CHANGE = 0.03
"""Smaller relative changes of the step size are left out: the speed is not known better."""


class Schedule:
    """Position of one training in its schedule.

    Every batch is one step of the schedule. A training that would end after its time is over takes
    larger steps through the rest instead, as many as there is time for, so that its learning rate
    still decays to the end: a net whose rate has decayed in half the epochs is worth far more than
    one that is stopped in the middle (Li, Yumer and Ramanan 2020, section 4, arXiv:1905.04753).

    Parameters
    ----------
    seconds_left : callable, optional
        Returns the seconds until the training has to end; without it every batch is one step.
    changes : iterable of ScheduleChange
        Changes of an earlier training that this one repeats, in order; then no time is measured.
    """

    def __init__(
        self,
        seconds_left: Callable[[], float] | None = None,
        changes: Iterable[ScheduleChange] = (),
    ) -> None:
        self.steps = 0
        """Batches of the whole schedule."""
        self.batches = 0
        """Batches done."""
        self.changes: list[ScheduleChange] = list(changes)
        """Changes of the step size so far, or the given ones."""
        self._seconds_left, self._is_repeated = seconds_left, bool(self.changes)
        self._position, self._step_size = 0.0, 1.0
        self._window_begin = (0, 0.0)
        self._batch_seconds = 0.0

    def begin(self, steps: int) -> None:
        """Start at the beginning of a schedule of so many steps, at least 1."""
        self.steps = steps

    @property
    def step(self) -> int:
        """Step of the schedule that the next batch is, 0 to `steps` - 1."""
        return min(round(self._position), self.steps - 1)

    @property
    def is_complete(self) -> bool:
        """Whether the end is reached."""
        return not self.batches_before(self.steps)

    @property
    def share(self) -> float:
        """Batches of a training that has ended as a share of `steps`: 1 if not shortened."""
        return self.batches / self.steps if self.changes else 1.0

    @property
    def passed(self) -> float:
        """Share of the schedule that is passed, 0 to 1."""
        return 1.0 if self.is_complete else self._position / self.steps

    def batches_before(self, step: int, ahead: int = 0) -> int:
        """Batches before the first one at or behind `step`, after `ahead` more batches."""
        # Positions are sums of step sizes: half a step keeps their rounding from an extra batch.
        to_go = step - 0.5 - self._position - ahead * self._step_size
        return max(0, math.ceil(to_go / self._step_size))

    def advance(self) -> None:
        """Record that a batch is done."""
        self.batches += 1
        self._position += self._step_size

    def adapt(self, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
        """Change the step size if the training would end too late, or need no longer hurry.

        All processes of a group call it after the same batches; the first one decides.
        """
        if self._is_repeated:
            self._step_size = dict(self.changes).get(self.batches, self._step_size)
            return
        if self._seconds_left is None or self.is_complete:
            return
        wanted = self._step_size if process_group.rank else self._wanted_step_size()
        (wanted,) = struct.unpack("d", process_group.broadcast_bytes(struct.pack("d", wanted)))
        if wanted != self._step_size:
            self._step_size = wanted
            self.changes.append((self.batches, wanted))

    def _wanted_step_size(self) -> float:
        """The step size at which the training ends in time, at the speed of late."""
        assert self._seconds_left is not None
        now, left = time.perf_counter(), self._seconds_left()
        to_go = self.steps - self._position
        if left <= 0:
            return to_go
        batches, begun = self._window_begin
        if not batches:  # The first batches are slower than all others.
            self._window_begin = (self.batches, now)
            return self._step_size
        if now - begun < max(_WINDOW_SECONDS, _WINDOW_SHARE * left):
            return self._step_size
        self._window_begin = (self.batches, now)
        measured = (now - begun) / (self.batches - batches)
        self._batch_seconds = ((self._batch_seconds or measured) + measured) / 2
        affordable = max(1.0, left / max(self._batch_seconds, 1e-9))
        wanted = max(1.0, to_go / affordable)
        is_same = abs(wanted / self._step_size - 1) < _LEAST_CHANGE
        return self._step_size if is_same else wanted

    def state_dict(self) -> Mapping[str, Tensor]:
        """The position and the changes, by name."""
        numbers = [self.batches, self._position, self._step_size]
        return {
            "position": torch.tensor(numbers, dtype=torch.float64),
            "changes": torch.tensor(self.changes, dtype=torch.float64).reshape(-1, 2),
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        batches, self._position, self._step_size = state_dict["position"].tolist()
        self.batches = int(batches)
        if not self._is_repeated:
            self.changes = [(int(n), size) for n, size in state_dict["changes"].tolist()]
