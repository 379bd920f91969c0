from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lepton_automl.artifact import parity as module
from lepton_automl.artifact import writer
from lepton_automl.artifact.manifest import FLOAT, GOLDEN, GOLDEN_PREDICTIONS, INT8
from lepton_automl.artifact.parity import golden_differences, golden_problems, parity
from lepton_automl.models import onnx_file
from lepton_automl.models.integer_reference import (
    IntegerReference,
    ReferenceOutput,
    integer_reference,
)
from tests.compress.test_external_interface import wrap
from tests.helpers import external_models as models
from tests.helpers.artifacts import make_bundle

AS_STORED = {"int8": 0.0, "float": 0.0}


def stored(folder: Path, shift: float) -> dict[str, bytes]:
    """Golden samples whose int8 answers are off by `shift`."""
    file, (pixels, _) = wrap(models.model()).file, models.pictures(8)
    answers = onnx_file.predict_probabilities(onnx_file.open_session(file), pixels)
    for name, array in (
        (GOLDEN, pixels),
        (GOLDEN_PREDICTIONS[FLOAT], answers),
        (GOLDEN_PREDICTIONS[INT8], (answers + np.float32(shift))),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(writer.npy(array))
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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"))
    pixels = np.load(made.request.pixels)
    names = ("model.int8.onnx", "model.fp32.onnx")
    return *((made.folder / name).read_bytes() for name in names), pixels


def test_a_written_file_agrees_with_integer_arithmetic(files):
    found = parity(*files, AS_STORED)
    assert found.holds
    assert found.max_steps <= 1
    assert found.n_same_class == found.n_clear
    assert found.n_samples == len(files[2])


def test_clear_samples_are_those_where_the_float_file_is_over_one_per_cent_sure(files):
    import onnxruntime

    _, floating, pixels = files
    (answers,) = onnxruntime.InferenceSession(floating).run(None, {"pixels": pixels})
    ordered = np.sort(answers, 1)
    assert parity(*files, AS_STORED).n_clear == (ordered[:, -1] - ordered[:, -2] > 0.01).sum()


def test_a_runtime_that_computes_something_else_is_found(files, monkeypatch):
    """The integer reference is given a file with a few weights changed, the runtime is not."""
    int8, _, _ = files
    model = onnx.ModelProto.FromString(int8)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    weights = numpy_helper.to_array(tensor).copy()
    weights[0] = -weights[0]
    tensor.raw_data = weights.tobytes()
    other = model.SerializeToString()
    monkeypatch.setattr(module, "integer_reference", lambda _: integer_reference(other))
    found = parity(*files, AS_STORED)
    assert not found.holds
    assert found.max_steps > 1


@pytest.mark.parametrize(("steps", "holds"), [(1, True), (2, False)])
def test_one_step_of_one_value_is_allowed_and_no_more(files, monkeypatch, steps, holds):
    """Classes stay the same, so only the steps can tell."""

    class Shifted(IntegerReference):
        def run(self, pixels):
            outcome = super().run(pixels)
            stored = outcome.last_quantized.astype(int)
            np.ravel(stored)[0] += steps
            return ReferenceOutput(outcome.probabilities, stored)

    monkeypatch.setattr(module, "integer_reference", Shifted)
    found = parity(*files, AS_STORED)
    assert found.max_steps == steps
    assert found.n_same_class == found.n_clear
    assert found.holds == holds


@pytest.mark.parametrize(
    ("differences", "holds"),
    [
        ({"int8": 0.04, "float": 0.0}, True),
        ({"int8": 0.2, "float": 0.0}, False),
        ({"int8": 0.0, "float": 0.01}, False),
    ],
)
def test_golden_samples_must_be_answered_as_stored(files, differences, holds):
    assert parity(*files, differences).holds == holds
