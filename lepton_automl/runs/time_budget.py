"""Shares: what of a run's time the stages after the search will need, from measured speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RECOVERY_SHARE = 0.5
"""Epochs of recovery after a cut, as a share of the winner's own."""

MAX_RECOVERIES = 4
"""Cuts of a usual compression that are trained on."""

TEACHER = 1.5
"""A step with a teacher takes so many times as long as one without."""

FORWARD = 1 / 3
"""Of the time of a training step, what the answer alone takes."""

STARTS_TO_QUANTIZE, STARTS_TO_PROVE = 0.7, 3.0
"""Work that no net's size decides, in units of what this command took to start: writing and
calibrating some int8 files; a fresh process, rounds of latency, exact arithmetic."""

START_SECONDS, MOST_WAITING = 1.5, 3.0
"""What it takes at least to start; at most so many times its processor time counts, because disks
are slow the first time only."""

QUANTIZED_SAMPLES = 20 * 512
"""Answers of int8 files while one is chosen, and what learning two roundings takes."""

FILES = 3
"""Proven on the test part: int8, its float twin, the reference."""

MOST_TO_COMPRESS, LEAST_TO_COMPRESS, MOST_TO_PROVE = 0.15, 0.06, 0.25
"""Of the budget. Of 0.22 two runs of 15 minutes used 0.08 and left the rest."""

COMPRESSION = "compression"


@dataclass(frozen=True)
class Sizes:
    """What the time of the later stages follows from besides the pace of training."""

    train: int
    validation: int
    test: int
    """Samples of the parts."""
    start_seconds: float
    """What the command took to start, of `start_seconds`."""


@dataclass(frozen=True)
class Later:
    """Seconds that are kept for the stages after the search."""

    compress: float
    quantize: float
    """Of `compress`, for its last step."""
    prove: float

    @property
    def by_stage(self) -> Mapping[str, float]:
        """As they are told."""
        return {COMPRESSION: self.compress, "files and verdict": self.prove}


def later(budget: float, sizes: Sizes, epoch_seconds: float, epochs: int) -> Later:
    """What compression, files and verdict will probably take.

    Parameters
    ----------
    budget : float
        Seconds for everything.
    sizes : Sizes
        Samples, and how slow this machine is at the moment.
    epoch_seconds : float
        Of one epoch of a typical candidate, at least 0.
    epochs : int
        Of a whole training.
    """
    start = sizes.start_seconds
    sample = epoch_seconds / sizes.train
    answers = FORWARD * sample
    prove = STARTS_TO_PROVE * start + FILES * answers * sizes.test
    quantize = STARTS_TO_QUANTIZE * start + answers * (QUANTIZED_SAMPLES + 9 * sizes.validation)
    recovery = TEACHER * epoch_seconds * max(1.0, RECOVERY_SHARE * epochs)
    most = MOST_TO_COMPRESS * budget
    whole = min(max(quantize + MAX_RECOVERIES * recovery, LEAST_TO_COMPRESS * budget), most)
    return Later(whole, min(quantize, whole), min(prove, MOST_TO_PROVE * budget))


def start_seconds(wall: float, processor: float) -> float:
    """How slow this machine is at the moment: seconds a process takes to start here.

    Parameters
    ----------
    wall : float
        Seconds this command took by the clock; 0 where that is not known.
    processor : float
        Seconds of processor time it took.
    """
    return max(START_SECONDS, min(wall, MOST_WAITING * processor))
