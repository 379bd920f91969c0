"""What one scale a layer costs: int8 accuracy of a net of a run with a scale a channel or a layer.

    python benchmarks/bench.py layer_scales RUN DATA.npz

The net before compression is quantized by the two methods that the product tries, and the one
with the lesser KL divergence from float is kept, as there. Weights lie within 127.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import parser, print_table
from lepton_automl.compress.evaluation import (
    float_probabilities,
    int8_probabilities,
    kl_divergence,
)
from lepton_automl.compress.quantization.calibration import calibrate, clip_ranges
from lepton_automl.compress.quantization.equalization import equalize, fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize, round_by_gptq
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.model import Model

LIMIT = 127
SCALES: tuple[Literal["channel", "layer"], ...] = ("channel", "layer")


def quantized(model: Model, pixels: Tensor, scale_of: Literal["channel", "layer"]) -> Model:
    """The closer one of both methods."""
    expected, made = float_probabilities(model, pixels), []
    for source in (model, equalize(model, calibrate(model, pixels))):
        ranges = clip_ranges(source, calibrate(source, pixels), pixels)
        made.append(
            round_by_gptq(quantize(source, ranges, LIMIT, scale_of=scale_of), pixels, LIMIT)
        )
    return min(made, key=lambda each: kl_divergence(expected, int8_probabilities(each, pixels)))


def main(arguments: list[str]) -> None:
    """Print a line a kind of scales."""
    options = parser(__doc__, "layer_scales")
    options.add_argument("run", type=Path)
    options.add_argument("data", type=Path, help=".npz with x_train, y_train, x_test, y_test")
    given = options.parse_args(arguments)
    model = fold_batchnorm(Model.load(given.run / "models" / "best"))
    with np.load(given.data) as arrays:
        labels, wanted = arrays["y_train"], arrays["y_test"]
        train, test = (
            torch.from_numpy(arrays[name].reshape(-1, *model.arch.input))
            for name in ("x_train", "x_test")
        )
    pixels = train[balanced(torch.from_numpy(labels), PICTURES, 0)]
    answers = {"float": float_probabilities(model, test)}
    for kind in SCALES:
        answers[f"a {kind}"] = int8_probabilities(quantized(model, pixels, kind), test)
    rows = [
        (
            name,
            f"{(found.argmax(1) == wanted).mean():.2%}",
            f"{(found.argmax(1) == answers['float'].argmax(1)).mean():.2%}",
            f"{kl_divergence(answers['float'], found):.2g}",
        )
        for name, found in answers.items()
    ]
    print_table(["scales", "accuracy", "class of float", "KL divergence"], rows)
