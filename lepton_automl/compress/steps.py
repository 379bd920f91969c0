"""Records of the steps of a compression, and its result, as they lie in its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lepton_automl.compress.temperature import Temperature, with_temperature
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.field_types import check_types
from lepton_automl.cost.latency_model import Basis
from lepton_automl.errors import DataError
from lepton_automl.models.model import Model

REFIT, QUANTIZED = "refit", "quantized"
"""Names of steps: the float net trained on all samples, and the int8 net that ships."""
STEPS_FILE = "steps.json"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class StepRecord:
    """One step of a compression: its net, its cost and whether it was accepted."""

    name: str
    """`reference`, `pruned-1` and so on, `refit`, `quantized`."""
    accuracy: float
    """Share of validation pictures that are right, 0 to 1; of the int8 file once quantized. After a
    training on all samples that of the int8 file before it, which had not seen these pictures."""
    arch: str
    """`hash` of its architecture; empty for a model made elsewhere."""
    size_bytes: int
    """Of the int8 file."""
    macs: int
    latency_ms: float | None
    """Of the int8 file at batch 1; None where latencies are unknown."""
    is_accepted: bool
    why: str
    latency_basis: Basis = "measured"
    interval: tuple[float, float] | None = None
    """95 % interval of the accuracy."""
    drop: float | None = None
    """Accuracy points below the float model on the same samples, as far as it was judged; of a net
    of lepton a smoothed estimate (`metrics.paired.smoothed_drop`)."""
    expected_drop: float | None = None
    """`drop` together with what cuts to this size lost elsewhere (`compress.acceptance`), points;
    None where it was not judged. Of nets of lepton only, as is what follows."""
    drop_bound: float | None = None
    """One-sided upper bound of the expected drop, corrected for the tries, points."""
    drop_weight: float | None = None
    """Weight of the pictures in the expected drop, 0 to 1."""
    samples: int = 0
    """Pictures that judged it; 0: it was not judged."""
    folds: int = 1
    """Folds that these are of; 1: the validation part alone."""
    tries: int = 0
    """Which judged net of this compression it is, from 1; 0: it was not judged."""
    is_withdrawn: bool = False
    """Whether it was accepted as a float net, but its int8 file was rejected at the end."""
    is_short_of_time: bool = False
    """Of `reference`: whether pruning ended because the time was used up; of `refit`: whether the
    time was too short for it. A later call with more time continues there (`compress`)."""
    float_layers: int = 0
    """Layers left in float; of a model made elsewhere."""


@dataclass(frozen=True)
class CompressionResult:
    """The models before and after a compression, and the records of its steps."""

    reference: Model
    """The float model that was compressed."""
    pruned_float: Model
    """The float model that `int8` was quantized from, with the same temperature."""
    int8: Model
    steps: tuple[StepRecord, ...]
    """In order, accepted or rejected."""
    temperature: Temperature | None = None
    """That of the probabilities of `pruned_float` and `int8`; None: none was fitted."""

    @property
    def is_refit(self) -> bool:
        """Whether the net that ships was trained on the validation part too."""
        return any(step.name == REFIT for step in accepted_steps(self.steps))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a finished compression.

        Raises
        ------
        DataError
            If it is not there or not finished.
        """
        steps = read_steps(folder)
        if not is_finished(steps):
            raise DataError(
                f"{folder} holds no finished compression",
                fix="run `lepton compress` on this run first",
            )
        accepted = [step.name for step in accepted_steps(steps)]
        reference, pruned, int8 = (Model.load(folder / accepted[n]) for n in (0, -2, -1))
        fitted = Temperature.load(folder)
        return cls(reference, with_temperature(pruned, fitted), int8, steps, fitted)


def is_finished(steps: Sequence[StepRecord]) -> bool:
    """Whether the last step is an int8 net that ships."""
    return bool(steps) and steps[-1].name == QUANTIZED and steps[-1].is_accepted


def accepted_steps(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """The steps whose nets were kept, in order."""
    return [step for step in steps if step.is_accepted]


def write_steps(folder: Path, steps: Sequence[StepRecord]) -> None:
    """Write the record that `read_steps` reads.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    files.write_json(folder / STEPS_FILE, [dataclasses.asdict(step) for step in steps])


def read_steps(folder: Path) -> tuple[StepRecord, ...]:
    """The steps recorded in `folder`; none where no compression began.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = folder / STEPS_FILE
    if not path.is_file():
        return ()
    fix = f"remove {folder} and compress again"
    body = untrusted_files.read_json(path, fix=fix, top=list, finite=False)
    try:
        steps = tuple(StepRecord(**_fields(item)) for item in body)
        for step in steps:
            check_types(step)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error}", fix=fix) from error
    return steps


def _fields(item: dict[str, Any]) -> dict[str, Any]:
    bounds = item.get("interval")
    return item | {"interval": None if bounds is None else tuple(bounds)}
