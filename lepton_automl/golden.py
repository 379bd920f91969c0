"""Golden samples: stored pictures, and whether files still answer them as they first did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_automl import bundle, onnxfile
from lepton_automl.manifest import FLOAT, GOLDEN, GOLDEN_ANSWERS, INT8
from lepton_automl.parity import GOLDEN_TOLERANCE


def golden_differences(folder: Path, files: Mapping[str, bytes]) -> dict[str, float]:
    """Largest difference of a probability from the stored ones, for `int8` and `float`."""
    golden, apart = bundle.read_array(folder, GOLDEN), {}
    for precision, name in (("int8", INT8), ("float", FLOAT)):
        answers = onnxfile.probabilities(onnxfile.session(files[name]), golden)
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
