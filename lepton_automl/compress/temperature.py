"""Fit the temperature of the net that ships, and fold it into its last layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_probabilities
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.field_types import check_types
from lepton_automl.errors import DataError
from lepton_automl.metrics import balanced
from lepton_automl.metrics.calibration import (
    LEAST,
    MOST,
    best_temperature,
    expected_calibration_error,
    negative_log_likelihood,
    tempered,
)
from lepton_automl.models.model import Model

MIN_SAMPLES, MIN_GROUPS = 100, 5
"""Validation samples, and groups where there are groups, from which a temperature is fitted."""
DECISION = "temperature of probabilities"
_FILE = "temperature.json"
_FRESH = "run `lepton compress` again with --fresh"


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by before the softmax, and what that changes."""

    value: float
    """Above 0; 1: nothing is changed."""
    samples: int
    """Validation samples."""
    groups: int = 0
    """Groups of them; 0: they are independent."""
    before: float = 0.0
    after: float = 0.0
    """Negative log-likelihood without it, and with one that was fitted on other samples."""
    error_before: float = 0.0
    error_after: float = 0.0
    """Expected calibration error, likewise, 0 to 1."""

    def save(self, folder: Path) -> None:
        """Write it into the folder of a compression."""
        files.write_json(folder / _FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote; None where none was fitted.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        if not (folder / _FILE).is_file():
            return None
        body = untrusted_files.read_json(folder / _FILE, fix=_FRESH, top=dict, finite=True)
        try:
            found = cls(**body)
            check_types(found)
            if not LEAST <= found.value <= MOST:
                raise ValueError(f"value is {found.value:g}, not {LEAST:g} to {MOST:g}")
        except (TypeError, ValueError) as error:
            what = f"{folder / _FILE} is not the temperature of a compression: {error}"
            raise DataError(what, fix=_FRESH) from error
        return found

    def decision(self) -> Decision:
        """What was decided, for the user."""
        counted = f"{self.samples} validation samples"
        if self.groups:
            counted += f" in {self.groups} groups"
        if self.value == 1.0 and not self.before:
            rule = f"a temperature is fitted from {MIN_SAMPLES} samples, of {MIN_GROUPS} groups"
            return Decision(
                DECISION, "probabilities as trained", f"{counted}; {rule}", "assumed", ""
            )
        change = f"expected calibration error {100 * self.error_before:.1f} points without, "
        change += f"{100 * self.error_after:.1f} with one fitted on other samples"
        if self.value == 1.0:
            choice = "probabilities as trained, a temperature does not make them better"
            return Decision(DECISION, choice, f"{counted}: {change}", "measured", "")
        choice = f"logits are divided by {self.value:.3g}, which changes probabilities and no label"
        evidence = f"{counted}: {change}"
        return Decision(DECISION, choice, evidence, "measured", "--temperature off", is_detail=True)


def fit_temperature(model: Model, context: CompressionContext) -> Temperature:
    """The temperature for the file of an int8 net, from the validation part.

    It is used where it helps on samples that it was not fitted on: each half, groups whole, with
    the temperature of the other half. With few samples or groups the probabilities stay.

    Parameters
    ----------
    model : Model
        Quantized, and not trained on the validation part.
    context : CompressionContext
        The validation part.
    """
    data, groups = context.validation, context.validation_groups
    count, labels = len(data), data.labels.numpy()
    units = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = 0 if groups is None else int(units.max()) + 1
    if count < MIN_SAMPLES or (groups is not None and number < MIN_GROUPS):
        return Temperature(1.0, count, number)
    probabilities = int8_probabilities(model, data.pixels)
    weights = None if data.strata is None else balanced.class_weights(data.strata)[data.strata]
    halves = _halves(units, context.seed)
    other = np.empty_like(probabilities, np.float64)
    for half in (halves, ~halves):
        own = None if weights is None else weights[~half]
        other[half] = tempered(
            probabilities[half], best_temperature(probabilities[~half], labels[~half], own)
        )
    before, after = (
        negative_log_likelihood(each, labels, weights) for each in (probabilities, other)
    )
    correct = probabilities.argmax(1) == labels
    errors = (expected_calibration_error(each.max(1), correct) for each in (probabilities, other))
    value = best_temperature(probabilities, labels, weights) if after < before else 1.0
    return Temperature(value, count, number, before, after, *errors)


def _halves(units: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Half of the samples at random, units whole."""
    count = int(units.max()) + 1
    chosen = np.random.default_rng(seed).permutation(count) < count // 2
    return np.asarray(chosen[units])


def with_temperature(model: Model, temperature: Temperature | None) -> Model:
    """`model` with its logits divided by the temperature: the last layer has other scales.

    Of an int8 net only the scales of the weights change, so that its integers, and with them its
    probabilities, stay bit for bit.
    """
    if temperature is None or temperature.value == 1.0:
        return model
    (*_, last), factor = model.arch.graph.weighted_ops, 1 / temperature.value
    changed = {
        name: weight * factor if name.rpartition(".")[0] == last.name else weight
        for name, weight in model.weights.items()
    }
    qparams = model.qparams
    if qparams is not None:
        scales = (qparams.weight_scales[last.name] * factor).astype(np.float32)
        by_name = qparams.weight_scales | {last.name: scales}
        qparams = dataclasses.replace(qparams, weight_scales=by_name)
    return dataclasses.replace(model, weights=changed, qparams=qparams)
