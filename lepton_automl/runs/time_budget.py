"""Split a run's time budget: seconds for the stages after the search, from measured speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RECOVERY_SHARE = 0.5
"""Epochs of recovery after a pruning step, as a share of the winner's own."""

_RECOVERIES = 4
"""Pruning steps of a usual compression that are followed by a recovery."""

_DISTILLATION_FACTOR = 1.5
"""Duration of a training step with distillation over that of one without."""

_FORWARD_SHARE = 1 / 3
"""Share of a training step's time that its forward pass takes."""

_STARTS_TO_QUANTIZE, _STARTS_TO_VERIFY = 0.7, 3.0
"""Time that does not depend on the net, in units of `start_seconds`: to write and calibrate some
int8 files; for a fresh process, latency rounds and exact integer arithmetic."""

_MIN_START_SECONDS, _MAX_START_FACTOR = 1.5, 3.0
"""Bounds of `start_seconds`: a minimum, and at most so many times the processor time, because a
disk is slow at the first read only."""

_QUANTIZED_SAMPLES = 20 * 512
"""Forward passes of int8 files while one is chosen and its rounding is optimised."""

_VERIFIED_FILES = 3
"""Files that are evaluated on the test part: int8, its float twin, the reference."""

MAX_COMPRESS_SHARE, MAX_VERIFY_SHARE = 0.15, 0.25
"""Shares of the budget that compression and verification get at most. Two runs of 15 minutes used
0.08 of 0.22 for compression."""

_MIN_COMPRESS_SHARE = 0.06

COMPRESSION = "compression"


@dataclass(frozen=True)
class BudgetInputs:
    """Sizes and speed from which the time of the stages after the search is estimated."""

    train: int
    validation: int
    test: int
    """Samples of the parts."""
    start_seconds: float
    """Seconds a process takes to start here (`start_seconds`)."""


@dataclass(frozen=True)
class StageBudget:
    """Seconds of the budget reserved for the stages after the search."""

    compress: float
    quantize: float
    """Part of `compress` that is reserved for quantization."""
    verify: float

    @property
    def by_stage(self) -> Mapping[str, float]:
        """Seconds by the name of the stage."""
        return {COMPRESSION: self.compress, "export and verification": self.verify}


def stage_budget(
    budget: float, inputs: BudgetInputs, epoch_seconds: float, epochs: int
) -> StageBudget:
    """Estimate how long compression, export and verification take.

    Parameters
    ----------
    budget : float
        Seconds of the whole run.
    inputs : BudgetInputs
        Samples, and how slow this machine is at the moment.
    epoch_seconds : float
        Seconds of one epoch of a typical trial, at least 0.
    epochs : int
        Epochs of a complete training.
    """
    start = inputs.start_seconds
    forward = _FORWARD_SHARE * epoch_seconds / inputs.train
    verify = _STARTS_TO_VERIFY * start + _VERIFIED_FILES * forward * inputs.test
    samples = _QUANTIZED_SAMPLES + 9 * inputs.validation
    quantize = _STARTS_TO_QUANTIZE * start + forward * samples
    recovery = _DISTILLATION_FACTOR * epoch_seconds * max(1.0, RECOVERY_SHARE * epochs)
    low, high = _MIN_COMPRESS_SHARE * budget, MAX_COMPRESS_SHARE * budget
    compress = min(max(quantize + _RECOVERIES * recovery, low), high)
    return StageBudget(compress, min(quantize, compress), min(verify, MAX_VERIFY_SHARE * budget))


def start_seconds(wall: float, processor: float) -> float:
    """Estimate how many seconds a process takes to start here, from the start of this command.

    Parameters
    ----------
    wall : float
        Wall-clock seconds since this command began; 0 where that is not known.
    processor : float
        Seconds of processor time it has used.
    """
    return max(_MIN_START_SECONDS, min(wall, _MAX_START_FACTOR * processor))
