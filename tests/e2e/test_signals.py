"""Signals from their arrays to the file that reads what a sensor gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lepton_automl.artifact.predict import predict
from lepton_automl.artifact.writer import read_array
from lepton_automl.config import RunConfig
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.pipeline import run
from lepton_automl.pipeline.verify import verify as verify_again

SPACE = """
doc = "signals, small enough for a test"
input = { resolution = "native", example = [40, 2] }
all.activation = "relu"
stem = { out = 8, kernel = 5, stride = 2 }
head.features = 0
[[stage]]
layer = "conv"
out = [16, 24]
depth = 1
stride = 2
[train]
optimizer = "adamw"
lr = 0.01
batch_size = 32
augment_kind = "signal"
cutout = 0.2
mixup = 0.2
epochs = 3
"""
CLASSES = ("slow", "fast", "still")


def signals(n=240):
    """Sines of two speeds and noise about other offsets a channel; 24 recordings of ten windows."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    time = np.arange(40)[None] + rng.uniform(0, 40, (n, 1))
    wave = np.sin(time * np.array([0.3, 1.2, 0.0])[y][:, None])
    x = np.stack([wave * 0.02 + 9.81, wave * 300], 2) + rng.normal(0, [0.001, 20], (n, 40, 2))
    return x.astype(np.float32), y, np.arange(n) // 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    (folder / "few.toml").write_text(SPACE)
    x, y, group = signals()
    np.savez(folder / "sines.npz", x=x, y=y, group=group, class_names=CLASSES)
    config = RunConfig(
        data=str(folder / "sines.npz"),
        out=folder / "run",
        space=str(folder / "few.toml"),
        objectives=("accuracy", "size_bytes"),
        trials=1,
        jobs=1,
    )
    return config, run.run(config)


def test_the_file_reads_float_signals_and_equals_integer_arithmetic(made):
    _, outcome = made
    session = onnxruntime.InferenceSession(outcome.artifact / "model.int8.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("signal", "tensor(float)", [40, 2])
    assert outcome.verdict.parity.max_steps == 0
    assert outcome.verdict.parity.holds
    assert outcome.verdict.int8.float_nodes == ()
    assert outcome.verdict.grouped


def test_golden_samples_are_values_as_the_data_have_them(made):
    _, outcome = made
    golden = read_array(outcome.artifact, "golden/pixels.npy")
    known = {row.tobytes() for row in signals()[0]}
    assert len(golden)
    assert all(row.tobytes() in known for row in golden)


def test_predictions_of_files_are_those_of_onnx_runtime_on_the_raw_values(made, tmp_path):
    _, outcome = made
    x, _, _ = signals()
    model = outcome.artifact / "model.int8.onnx"
    session = onnxruntime.InferenceSession(model)
    (expected,) = session.run(None, {"signal": x[:5]})
    np.save(tmp_path / "several.npy", x[:4])
    np.savetxt(tmp_path / "one.csv", x[4], delimiter=",", fmt="%.9g", header="a,b", comments="")
    found = predict(model, [tmp_path / "several.npy", tmp_path / "one.csv"])
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    assert [each.label for each in found] == [labels[n] for n in expected.argmax(1)]
    np.testing.assert_allclose([e.probability for e in found], expected.max(1), rtol=1e-6)
    assert [each.file.name for each in found] == [
        *(f"several.npy[{n}]" for n in range(4)),
        "one.csv",
    ]
    in_memory = predict(model, list(x[:5]))
    assert [(e.label, e.probability) for e in in_memory] == [
        (e.label, pytest.approx(e.probability)) for e in found
    ]
    with pytest.raises(DataError, match=r"\[1\] holds values"):
        predict(model, [x[0], x[1][:7]])


def test_a_longer_recording_gets_one_answer_joined_of_its_windows(made, lepton, tmp_path):
    """Oracle: the geometric mean of what ONNX Runtime answers to the windows."""
    _, outcome = made
    x, _, _ = signals()
    long = np.concatenate([x[0], x[3], x[1][:10]])
    np.savetxt(tmp_path / "long.csv", long, delimiter=",", fmt="%.9g")
    model = outcome.artifact / "model.int8.onnx"
    windows = np.stack([long[start : start + 40] for start in (0, 20, 40)])
    session = onnxruntime.InferenceSession(model)
    (answers,) = session.run(None, {"signal": windows})
    means = np.exp(np.log(answers.astype(np.float64)).mean(0))
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])

    shown = json.loads(lepton("predict", str(model), str(tmp_path / "long.csv"), "--json").out)

    (found,) = shown["predictions"]
    assert found["label"] == labels[means.argmax()]
    assert found["probability"] == pytest.approx((means / means.sum()).max(), rel=1e-4)
    assert [each["start"] for each in found["windows"]] == [0, 20, 40]
    assert [each["label"] for each in found["windows"]] == [labels[n] for n in answers.argmax(1)]


def test_windows_of_a_longer_recording_are_as_far_apart_as_the_file_says(made, tmp_path):
    _, outcome = made
    x, _, _ = signals()
    model = onnx.load_model(outcome.artifact / "model.int8.onnx")
    ts = "@classLabel false\n@data\n" + ":".join(",".join(map(str, c)) for c in x[0].T)
    (tmp_path / "whole.ts").write_text(ts)
    np.save(tmp_path / "long.npy", np.concatenate([x[0], x[3], x[1][:10]]))
    for text, starts in (("17", [0, 17, 34]), ("none", [0, 20, 40]), ("", [0, 20, 40])):
        del model.metadata_props[:]
        for key, value in (("stride", text), ("labels", json.dumps(CLASSES))):
            model.metadata_props.add(key=key, value=value)
        onnx.save_model(model, tmp_path / "model.onnx")
        long, whole = predict(tmp_path / "model.onnx", [tmp_path / "long.npy", tmp_path])[::2]
        assert [each.start for each in long.windows] == starts
    (expected,) = predict(outcome.artifact, [_saved(tmp_path / "x.npy", x[0])])
    assert (whole.label, whole.probability) == (expected.label, expected.probability)
    assert whole.file.name == "whole.ts[line 3]"


def _saved(path, values):
    np.save(path, values)
    return path


def test_the_example_without_lepton_gives_what_predict_gives(made, tmp_path):
    _, outcome = made
    model = outcome.artifact / "model.int8.onnx"
    files = [tmp_path / f"{n}.npy" for n in range(3)]
    for n, file in enumerate(files):
        np.save(file, signals()[0][n])
    script = Path(__file__).parents[2] / "examples" / "classify_signal.py"
    assert "lepton_automl" not in script.read_text()
    command = [sys.executable, script, model, *files]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = predict(model, files)
    rows = [line.split("\t") for line in shown.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [(str(e.file), e.label) for e in expected]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [each.probability for each in expected], abs=1e-4
    )


def test_a_file_of_another_length_is_named_and_the_others_are_classified(made, lepton, tmp_path):
    config, _ = made
    np.save(tmp_path / "good.npy", signals()[0][0])
    np.save(tmp_path / "short.npy", signals()[0][0, :39])
    shown = lepton(
        "predict", str(config.out), str(tmp_path / "good.npy"), str(tmp_path / "short.npy")
    )
    assert shown.exit_code == 3
    assert "good.npy" in shown.out
    assert "39, 2" in shown.err


def test_it_is_verified_again_and_in_the_other_layout(made, tmp_path):
    config, outcome = made
    assert verify_again(config.out).verdict.int8.accuracy == outcome.verdict.int8.accuracy
    x, y, group = signals()
    np.savez(tmp_path / "turned.npz", x=np.moveaxis(x, 2, 1), y=y, group=group, class_names=CLASSES)
    again = verify_again(config.out, data=str(tmp_path / "turned.npz")).verdict
    assert again.int8 is not None
    assert again.test_fingerprint == outcome.verdict.test_fingerprint


def test_the_card_says_what_the_file_reads(made):
    card = (made[1].artifact / "MODEL_CARD.md").read_text()
    assert "`signal`, float32 (n, 40, 2)" in card
    assert "signal of 40 values, 2 channels" in card


def test_nets_for_other_data_are_refused(made, lepton, tmp_path):
    config, _ = made
    x, y, group = signals()
    np.savez(tmp_path / "short.npz", x=x[:, :36], y=y, group=group, class_names=CLASSES)
    pictures = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "pictures.npz", x=pictures, y=np.arange(60) % 3, class_names=CLASSES)
    net = config.out / "models" / "best"
    for data, said in (
        ("short.npz", "signals of 40 values in 2 channels, the data are signals of 36 values"),
        ("pictures.npz", "signals of 40 values in 2 channels, the data are pictures"),
    ):
        place = ("--data", str(tmp_path / data), "--out", str(tmp_path / f"of-{data}"))
        shown = lepton("compress", str(net), *place)
        assert shown.exit_code == DataError.exit_code
        assert said in shown.err
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    (tmp_path / "net.onnx").write_bytes(empty.SerializeToString())
    shown = lepton("compress", str(tmp_path / "net.onnx"), "--data", config.data)
    assert shown.exit_code == DataError.exit_code
    assert "for pictures only" in shown.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--flip", "on"), "signals are never mirrored"),
        (("--channels", "3"), "signals, not pictures"),
        (("--pixel-scale", "0:4"), "is for signals, the data are pictures"),
    ],
)
def test_options_of_pictures_are_refused_before_anything_is_written(
    made, lepton, tmp_path, option, said
):
    config, _ = made
    place = ("--space", config.space, "--out", str(tmp_path / "other"))
    shown = lepton("run", config.data, *option, *place)
    assert shown.exit_code == ConfigError.exit_code
    assert said in shown.err
    assert not (tmp_path / "other").exists()


def test_a_space_for_pictures_is_refused(made, lepton, tmp_path):
    config, _ = made
    shown = lepton("run", config.data, "--space", "tiny", "--out", str(tmp_path / "other"))
    assert shown.exit_code == ConfigError.exit_code
    assert "is for pictures, the data are signals" in shown.err
    assert not (tmp_path / "other").exists()
