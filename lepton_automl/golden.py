"""Golden samples: stored pictures, and whether files still answer them as they first did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_automl import bundle, onnxfile
from lepton_automl.manifest import FLOAT, GOLDEN, GOLDEN_ANSWERS, INT8
from lepton_automl.parity import GOLDEN_TOLERANCE, parity
from lepton_automl.verdict import Parity

PARITY_SAMPLES = 256
"""Pictures besides the golden ones."""


def golden_differences(folder: Path, files: Mapping[str, bytes]) -> dict[str, float]:
    """Largest difference of a probability from the stored ones, for `int8` and `float`."""
    golden, apart = bundle.read_array(folder, GOLDEN), {}
    for precision, name in (("int8", INT8), ("float", FLOAT)):
        answers = onnxfile.predict_probabilities(onnxfile.open_session(files[name]), golden)
        stored = bundle.read_array(folder, GOLDEN_ANSWERS[name])
        apart[precision] = float(np.abs(answers - stored).max(initial=0.0))
    return apart


def golden_problems(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Of a foreign model, whose integers nobody can tell: stored answers that do not come back."""
    return [
        f"the {precision} file answers golden pictures otherwise than when it was written, by up "
        f"to {apart:.3g}, at most {GOLDEN_TOLERANCE[precision]:g}"
        for precision, apart in golden_differences(folder, files).items()
        if apart > GOLDEN_TOLERANCE[precision]
    ]


def parity_of(folder: Path, files: Mapping[str, bytes], pixels: np.ndarray) -> Parity:
    """The int8 file against exact integer arithmetic, on golden samples and some of `pixels`."""
    golden, apart = bundle.read_array(folder, GOLDEN), golden_differences(folder, files)
    chosen = np.linspace(0, len(pixels) - 1, min(PARITY_SAMPLES, len(pixels))).astype(int)
    samples = np.concatenate([golden, pixels[chosen]])
    return parity(files[INT8], files[FLOAT], samples, apart)
