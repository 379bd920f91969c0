"""Split a run's time budget: seconds for the stages after the search, from measured speeds."""

from __future__ import annotations

import math
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

MIN_START_SECONDS, _MAX_START_FACTOR = 1.5, 3.0
"""Bounds of `start_seconds`: a minimum, and at most so many times the processor time, because a
disk is slow at the first read only."""

_QUANTIZED_SAMPLES = 20 * 512
"""Forward passes of int8 files while one is chosen and its rounding is optimised."""

_LEAST_EVALUATIONS, _EVALUATIONS = 3, 9
"""Evaluations on validation while quantizing: at least, and with every method and fine-tuning. An
int8 file takes about a third of the time of the float net."""

_VERIFIED_FILES = 3
"""Files that are evaluated on the test part: int8, its float twin, the reference."""

MAX_COMPRESS_SHARE = 0.15
"""Share of the budget that compression gets at most, if quantization does not need more. Two runs
of 15 minutes used 0.08 of 0.22 for compression."""

_MIN_COMPRESS_SHARE = 0.06

_OVERRUN_STARTS, _OVERRUN_SHARE = 6.0, 0.1
"""Time that a run may take beyond its budget rather than end without a file: so many
`start_seconds`, as a command, a worker and the verification start a process each, or this share of
the budget."""

COMPRESSION = "compression"
REFIT = "training on all samples"
"""Names of stages."""

MAX_REFIT_SHARE = 0.25
"""Share of the budget that the training on all samples gets at most."""

LEAST_REFIT_SHARE = 0.5
"""Least epochs of that training, as a share of the recipe's or the winner's: fewer gain nothing."""

_SLOWER_WINNER = 1.3
"""Seconds of an epoch of the winner over those of a typical trial: often it is a larger net."""

_MAX_SECONDS_TEXT = 300.0
"""Longer budgets are given in minutes."""


@dataclass(frozen=True)
class BudgetInputs:
    """Sizes and speed from which the time of the stages after the search is estimated."""

    train: int
    validation: int
    test: int
    """Samples of the parts."""
    start_seconds: float
    """Seconds a process takes to start here (`start_seconds`)."""
    refit_epochs: int = 0
    """Epochs of a complete recipe: time is reserved for as many or more of the training on the
    training and validation parts together; 0: there is no such training."""


@dataclass(frozen=True)
class StageBudget:
    """Seconds of the budget reserved for the stages after the search."""

    compress: float
    quantize: float
    """Part of `compress` that is reserved for quantization."""
    verify: float
    refit: float = 0.0
    """For the training on the training and validation parts together, after all choices."""

    @property
    def by_stage(self) -> Mapping[str, float]:
        """Seconds by the name of the stage."""
        refit = {REFIT: self.refit} if self.refit else {}
        return {COMPRESSION: self.compress} | refit | {"export and verification": self.verify}


def least_stage_seconds(inputs: BudgetInputs, epoch_seconds: float) -> float:
    """Estimate how long quantization, export and verification take, without any pruning.

    Parameters
    ----------
    inputs : BudgetInputs
        Samples, and how slow this machine is at the moment.
    epoch_seconds : float
        Seconds of one epoch of a typical trial, at least 0.
    """
    return _quantize_seconds(inputs, epoch_seconds) + verify_seconds(inputs, epoch_seconds)


def _forward_seconds(inputs: BudgetInputs, epoch_seconds: float) -> float:
    """Seconds of the forward pass of a sample."""
    return _FORWARD_SHARE * epoch_seconds / inputs.train


def _quantize_seconds(
    inputs: BudgetInputs, epoch_seconds: float, evaluations: int = _LEAST_EVALUATIONS
) -> float:
    samples = _QUANTIZED_SAMPLES + evaluations * inputs.validation
    start = _STARTS_TO_QUANTIZE * inputs.start_seconds
    return start + samples * _forward_seconds(inputs, epoch_seconds)


def verify_seconds(inputs: BudgetInputs, epoch_seconds: float) -> float:
    """Estimate how long export and verification take, as `least_stage_seconds` does."""
    samples = _VERIFIED_FILES * inputs.test
    start = _STARTS_TO_VERIFY * inputs.start_seconds
    return start + samples * _forward_seconds(inputs, epoch_seconds)


def stage_budget(
    budget: float, inputs: BudgetInputs, epoch_seconds: float, epochs: int
) -> StageBudget:
    """Estimate how long compression, export and verification take.

    Pruning and its recoveries get a bounded share of the budget; quantization, export and
    verification get what they need, at most all of it.

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
    verify = verify_seconds(inputs, epoch_seconds)
    low, high = _MIN_COMPRESS_SHARE * budget, MAX_COMPRESS_SHARE * budget
    quantize = max(
        _quantize_seconds(inputs, epoch_seconds),
        min(high, _quantize_seconds(inputs, epoch_seconds, _EVALUATIONS)),
    )
    recovery = _DISTILLATION_FACTOR * epoch_seconds * max(1.0, RECOVERY_SHARE * epochs)
    verify = min(verify, budget)
    quantize = min(quantize, budget - verify)
    compress = max(quantize, min(max(quantize + _RECOVERIES * recovery, low), high))
    compress = min(compress, budget - verify)
    most = min(MAX_REFIT_SHARE * budget, budget - verify - compress)
    refit = _refit_seconds(inputs, epoch_seconds, epochs, most)
    return StageBudget(compress, quantize, verify, refit)


def _refit_seconds(inputs: BudgetInputs, epoch_seconds: float, epochs: int, most: float) -> float:
    """Seconds kept for the training on all samples, up to `most`; 0 where these are too few."""
    if not inputs.refit_epochs:
        return 0.0
    samples = (inputs.train + inputs.validation) / inputs.train
    least = LEAST_REFIT_SHARE * _SLOWER_WINNER * inputs.refit_epochs * samples * epoch_seconds
    wanted = max(inputs.refit_epochs, epochs) * samples * epoch_seconds
    return min(wanted, most) if least <= most else 0.0


def allowed_overrun(budget: float, start_seconds: float) -> float:
    """Seconds that a run may take beyond `budget` rather than end without a file.

    Parameters
    ----------
    budget : float
        Seconds, above 0.
    start_seconds : float
        Seconds a process takes to start here.
    """
    return max(_OVERRUN_STARTS * start_seconds, _OVERRUN_SHARE * budget)


def sufficient_budget(seconds: float) -> str:
    """The value of `--budget` that is enough for `seconds`: rounded up, such as 45s or 12m."""
    seconds = max(seconds, 1.0)
    if seconds <= _MAX_SECONDS_TEXT:
        return f"{5 * math.ceil(seconds / 5)}s"
    return f"{math.ceil(seconds / 60)}m"


def continuing_budget(used: float) -> str:
    """The value of `--budget` with which a run that took `used` seconds continues: twice that.

    In as much time again the data are opened, trials are trained and a file is verified, as all of
    that took place in the time before.
    """
    return sufficient_budget(2 * used)


def start_seconds(wall: float, processor: float) -> float:
    """Estimate how many seconds a process takes to start here, from the start of this command.

    Parameters
    ----------
    wall : float
        Wall-clock seconds since this command began; 0 where that is not known.
    processor : float
        Seconds of processor time it has used.
    """
    return max(MIN_START_SECONDS, min(wall, _MAX_START_FACTOR * processor))
