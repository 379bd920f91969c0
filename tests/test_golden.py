from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_automl import bundle, onnxfile
from lepton_automl.golden import golden_differences, golden_problems
from lepton_automl.manifest import FLOAT, GOLDEN, GOLDEN_ANSWERS, INT8
from tests.foreign import models
from tests.foreign.test_wrapping import wrap


def stored(folder: Path, shift: float) -> dict[str, bytes]:
    """Golden samples whose int8 answers are off by `shift`."""
    file, (pixels, _) = wrap(models.model()).file, models.pictures(8)
    answers = onnxfile.predict_probabilities(onnxfile.open_session(file), pixels)
    for name, array in (
        (GOLDEN, pixels),
        (GOLDEN_ANSWERS[FLOAT], answers),
        (GOLDEN_ANSWERS[INT8], (answers + np.float32(shift))),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bundle.npy(array))
    return {INT8: file, FLOAT: file}


def test_how_far_answers_are_from_the_stored_ones(tmp_path: Path) -> None:
    apart = golden_differences(tmp_path, stored(tmp_path, 0.2))
    assert abs(apart["int8"] - 0.2) < 1e-5
    assert apart["float"] < 1e-6


def test_only_what_is_beyond_its_tolerance_is_a_problem(tmp_path: Path) -> None:
    assert not golden_problems(tmp_path, stored(tmp_path, 0.04))
    (line,) = golden_problems(tmp_path, stored(tmp_path, 0.2))
    assert "int8" in line
    assert "0.2" in line
