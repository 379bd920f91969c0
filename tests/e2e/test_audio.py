"""Sound from WAV files to the file that reads raw samples and computes the features itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lepton_automl.artifact import predict as predict_module
from lepton_automl.artifact.predict import predict
from lepton_automl.artifact.writer import read_array
from lepton_automl.config import RunConfig
from lepton_automl.data import audio_files
from lepton_automl.data.opening import open_dataset
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.pipeline import run
from lepton_automl.pipeline.export import written_outcome
from lepton_automl.pipeline.verify import verify as verify_again
from tests.helpers.sounds import tone, tones, write

SPACE = """
doc = "sound, small enough for a test"
input = { kind = "audio", resolution = "native", example = [20, 20, 1] }
all.activation = "relu"
stem = { out = 8, kernel = 3, stride = 2 }
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
augment_kind = "audio"
mixup = 0.2
epochs = 3
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    (folder / "few.toml").write_text(SPACE)
    config = RunConfig(
        data=str(tones(folder / "tones", 60)),
        out=folder / "run",
        space=str(folder / "few.toml"),
        objectives=("accuracy", "size_bytes"),
        trials=1,
        jobs=1,
        window=2400,
        stride=1200,
        mels=20,
    )
    return config, run.run(config)


@pytest.fixture(scope="module")
def opened(made):
    return open_dataset(made[0].data, window=2400, stride=1200, mels=20)


def test_the_file_reads_raw_samples_and_equals_integer_arithmetic(made):
    _, outcome = made
    session = onnxruntime.InferenceSession(outcome.artifact / "model.int8.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("audio", "tensor(int16)", [2400])
    parity = outcome.verdict.parity
    assert parity.holds
    assert parity.max_steps <= 1
    assert parity.feature_steps <= 1
    assert outcome.verdict.int8.float_nodes == ()


def test_the_front_end_has_a_line_of_its_own(made):
    verdict = made[1].verdict
    assert 0 < verdict.front_end.latency_ms < verdict.int8.latency_ms * 1.5
    assert 500 < verdict.front_end.size_bytes < 1700
    card = (made[1].artifact / "MODEL_CARD.md").read_text()
    assert "Front end (log-mel features, in float)" in card
    assert "`audio`, int16 (n, 2400)" in card


def joined(answers):
    """One answer to windows: the geometric mean of their probabilities."""
    mean = np.exp(np.log(np.maximum(answers, 1e-6).astype(float)).mean(0))
    return mean / mean.sum()


def test_the_accuracy_of_recordings_is_that_of_their_joined_answers(made, opened):
    _, outcome = made
    part = opened.test
    session = onnxruntime.InferenceSession(outcome.artifact / "model.int8.onnx")
    (answers,) = session.run(None, {"audio": part.audio})
    right = []
    for recording in np.unique(part.recordings):
        own = part.recordings == recording
        right.append(joined(answers[own]).argmax() == part.labels[own][0])
    whole = outcome.verdict.int8.recordings
    assert whole.n_recordings == len(right) < len(part)
    assert whole.accuracy == pytest.approx(np.mean(right))
    assert outcome.verdict.limits_on == "recordings"
    drop = outcome.verdict.recording_drops["int8"]
    assert drop.n == len(right)
    made_by_option = {d.name: d.option for d in outcome.decisions}
    assert made_by_option["limits on accuracy bind"] == "--judge windows"
    assert "of whole recordings" in (outcome.artifact / "MODEL_CARD.md").read_text()
    assert written_outcome(outcome.artifact).verdict == outcome.verdict


def test_an_option_on_recordings_needs_recordings(made, tmp_path):
    pictures = RunConfig(data="digits", out=tmp_path / "run", judge="windows", trials=1)
    with pytest.raises(ConfigError, match="--judge windows has no effect"):
        run.run(pictures)


def test_golden_samples_are_pcm_of_the_data(made, opened):
    golden = read_array(made[1].artifact, "golden/pixels.npy")
    known = {row.tobytes() for row in opened.validation.audio}
    assert golden.dtype == np.int16
    assert all(row.tobytes() in known for row in golden)


def test_a_recording_is_classified_from_its_wav_alone_and_by_the_example(made, tmp_path):
    _, outcome = made
    model = tmp_path / "model.onnx"
    model.write_bytes((outcome.artifact / "model.int8.onnx").read_bytes())
    files = []
    for n, seconds in enumerate((0.1, 0.3, 0.95)):
        write(tmp_path / f"{n}.wav", tone(900, seconds, seed=n))
        files.append(tmp_path / f"{n}.wav")
    found = predict(model, files)
    session = onnxruntime.InferenceSession(model)
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    for each, file, count in zip(found, files, (1, 1, 6), strict=True):
        samples, _ = audio_files.read_audio(file)
        starts = range(0, 1200 * count, 1200)
        padded = np.concatenate([samples, np.zeros(9000, np.int16)])
        (answers,) = session.run(None, {"audio": np.stack([padded[s : s + 2400] for s in starts])})
        assert [w.start for w in each.windows] == (list(starts) if count > 1 else [])
        assert each.label == labels[joined(answers).argmax()]
        assert each.probability == pytest.approx(joined(answers).max(), rel=1e-5)
    in_memory = predict(model, [audio_files.read_audio(file)[0] for file in files])
    assert [(e.label, e.probability, e.windows) for e in in_memory] == [
        (e.label, e.probability, e.windows) for e in found
    ]
    with pytest.raises(DataError, match=r"\[0\] holds float32 .*int16 samples"):
        predict(model, [np.zeros(4000, np.float32)])
    script = Path(__file__).parents[2] / "examples" / "classify_audio.py"
    assert "lepton_automl" not in script.read_text()
    command = [sys.executable, script, model, *files]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in shown.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [(str(e.file), e.label) for e in found]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [each.probability for each in found], abs=1e-4
    )


def test_a_recording_with_too_many_windows_is_left_out(made, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "_MOST_WINDOWS", 3)
    write(tmp_path / "long.wav", tone(900, 0.9))
    write(tmp_path / "short.wav", tone(900, 0.3))
    left: list[DataError] = []
    found = predict(made[1].artifact, [tmp_path], on_unreadable=left.append)
    assert [each.file.name for each in found] == ["short.wav"]
    assert "long.wav has 5 windows, at most 3" in left[0].what


def test_another_rate_and_form_is_converted(made, lepton, tmp_path):
    """A tone at 44.1 kHz, as float in two channels, and its samples at the rate of the net."""
    _, outcome = made
    whole = tone(2500, 0.3, 44100)
    high = whole.astype("<f4") / 32768
    write(tmp_path / "own.wav", audio_files.to_rate(Path("x"), whole, 44100, 8000))
    write(tmp_path / "other.wav", np.stack([high, high], 1), 44100, kind=3, bits=32)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    shown = lepton("predict", str(outcome.artifact), str(tmp_path), "--json")
    rows = {Path(r["file"]).name: r for r in json.loads(shown.out)["predictions"]}
    assert shown.exit_code == DataError.exit_code
    assert "bad.wav" in shown.err + shown.out
    for key in ("label", "probability"):
        assert rows["own.wav"][key] == rows["other.wav"][key]


def test_it_is_verified_again_with_its_own_and_with_given_data(made):
    config, outcome = made
    again = verify_again(config.out).verdict
    assert again.int8.accuracy == outcome.verdict.int8.accuracy
    given = verify_again(config.out, data=config.data).verdict
    assert given.int8.recordings == outcome.verdict.int8.recordings
    assert given.test_fingerprint == outcome.verdict.test_fingerprint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--flip", "on"), "audio are never mirrored"),
        (("--channels", "3"), "audio, not pictures"),
        (("--space", "tiny"), "is for pictures, the data are audio"),
        (("--rate", "10"), "the rule is 1000 to 192000 hertz"),
        (("--columns", "path=a"), "has no effect"),
    ],
)
def test_options_that_do_not_apply_are_refused(made, lepton, tmp_path, options, said):
    shown = lepton("run", made[0].data, *options, "--out", str(tmp_path / "other"))
    assert shown.exit_code == ConfigError.exit_code
    assert said in shown.err
    assert not (tmp_path / "other").exists()


def test_a_net_for_another_front_end_is_refused(made, lepton, tmp_path):
    config, _ = made
    place = ("--data", config.data, "--out", str(tmp_path / "int8"))
    shown = lepton("compress", str(config.out / "models" / "best"), *place)
    assert shown.exit_code == DataError.exit_code
    assert "20 log-mel bands" in shown.err
    assert "40 log-mel bands" in shown.err


def test_the_data_are_reported(made, lepton, tmp_path):
    data = tones(tmp_path / "few", 12)
    write(data / "low" / "silent.wav", np.zeros(3000, np.int16))
    shown = lepton("data", str(data), "--json")
    report = json.loads(shown.out)
    assert report["kind"] == "audio"
    assert sum(part["recordings"] for part in report["parts"]) == 37
    assert "silence" in {finding["kind"] for finding in report["findings"]}
