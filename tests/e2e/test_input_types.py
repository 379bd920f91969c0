"""Pictures with other channels than colours, and int16 signals, from arrays to the written file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lepton_automl.artifact.predict import predict
from lepton_automl.artifact.writer import read_array
from lepton_automl.config import RunConfig
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.pipeline import run
from lepton_automl.pipeline.verify import verify as verify_again
from tests.e2e.test_signals import SPACE

PICTURES = SPACE.replace("[40, 2]", "[18, 20, 5]").replace('augment_kind = "signal"\n', "")
CLASSES = ("left", "right")


def pictures(n=160):
    """Five channels of very different levels; the third, weak one tells the class."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    bar = np.where((np.arange(20) < 10)[None] == (y == 0)[:, None], 1, -1)[:, None, :]
    x = rng.normal(0, 1, (n, 18, 20, 5)) * [40, 30, 2, 50, 20] + [128, 100, 12, 128, 200]
    x[..., 2] += 3 * bar
    return np.rint(x).clip(0, 255).astype(np.uint8), y


def counts(n=160):
    """Whole numbers, as an ADC gives them."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    wave = np.sin(
        np.arange(40)[None] * np.array([0.3, 1.2])[y][:, None] + rng.uniform(0, 6, (n, 1))
    )
    x = np.stack([wave * 9000 + 500, rng.normal(0, 300, (n, 40))], 2)
    return np.rint(x).astype(np.int16), y


def deep_pictures(n=160):
    """A narrow range of 16 bits."""
    x, y = pictures(n)
    return x[..., 2:3].astype(np.uint16) * 9 + 30_000, y


KINDS = {
    "pixels": (pictures, PICTURES, "uint8"),
    "deep pixels": (deep_pictures, PICTURES.replace("20, 5]", "20, 1]"), "uint16"),
    "signal": (counts, SPACE, "int16"),
}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    data, space, _ = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "few.toml").write_text(space)
    x, y = data()
    np.savez(folder / "data.npz", x=x, y=y, class_names=CLASSES)
    config = RunConfig(
        data=str(folder / "data.npz"),
        out=folder / "run",
        space=str(folder / "few.toml"),
        objectives=("accuracy", "size_bytes"),
        group="none",
        trials=1,
        jobs=1,
    )
    return request.param, config, run.run(config)


def input_name(name):
    return name.split()[-1]


def test_the_file_reads_the_values_as_they_are_stored(made):
    name, _, outcome = made
    data, _, kind = KINDS[name]
    session = onnxruntime.InferenceSession(outcome.artifact / "model.int8.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type) == (input_name(name), f"tensor({kind})")
    assert outcome.verdict.parity.max_steps == 0
    assert outcome.verdict.int8.float_nodes == ()
    golden = read_array(outcome.artifact, "golden/pixels.npy")
    known = {row.tobytes() for row in data()[0]}
    assert golden.dtype == kind
    assert all(row.tobytes() in known for row in golden)
    card = (outcome.artifact / "MODEL_CARD.md").read_text()
    assert f"`{input_name(name)}`, {kind} (n, " in card


def test_predict_and_the_example_answer_as_onnx_runtime_does(made, tmp_path):
    name, _, outcome = made
    x = KINDS[name][0]()[0][:3]
    model = outcome.artifact / "model.int8.onnx"
    session = onnxruntime.InferenceSession(model)
    (expected,) = session.run(None, {input_name(name): x})
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    files = [tmp_path / f"{n}.npy" for n in range(3)]
    for file, values in zip(files, x, strict=True):
        np.save(file, values)
    found = predict(model, files)
    assert [each.label for each in found] == [labels[n] for n in expected.argmax(1)]
    np.testing.assert_allclose([e.probability for e in found], expected.max(1), rtol=1e-6)
    example = {"pixels": "classify.py", "signal": "classify_signal.py"}[input_name(name)]
    script = Path(__file__).parents[2] / "examples" / example
    shown = subprocess.run(
        [sys.executable, script, model, *files], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split("\t")[1] for line in shown.splitlines()] == [e.label for e in found]


def test_it_is_verified_again(made):
    _, config, outcome = made
    assert verify_again(config.out).verdict.int8.accuracy == outcome.verdict.int8.accuracy


def test_values_that_do_not_fit_are_named(made, tmp_path):
    name, _, outcome = made
    wrong = KINDS[name][0]()[0][0].astype(np.float32) + 0.5
    np.save(tmp_path / "wrong.npy", wrong)
    with pytest.raises(DataError, match=r"float32|\.5; the net reads int16"):
        predict(outcome.artifact / "model.int8.onnx", [tmp_path / "wrong.npy"])


@pytest.mark.parametrize(
    ("name", "stated", "said"),
    [("pixels", "int16", "uint8 pixels"), ("signal", "uint8", "int16 or float32")],
)
def test_types_that_the_data_cannot_have_are_refused(made, tmp_path, name, stated, said):
    own, config, _ = made
    if own != name:
        return
    with pytest.raises(ConfigError) as caught:
        run.run(RunConfig(data=config.data, out=tmp_path / "run", input_type=stated))
    assert said in f"{caught.value.what} {caught.value.fix}"
