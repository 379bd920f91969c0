"""The program in the artifact reads files as lepton does and answers as `lepton predict`."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lepton_automl.artifact import lepton_device as device
from lepton_automl.artifact.predict import predict
from lepton_automl.data import audio_files, signal_files
from lepton_automl.data.pictures import array_files, decode
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, parse
from lepton_automl.errors import DataError
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle
from tests.helpers.pictures import tiff

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify.py"

ALONE = """import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lepton_automl", "onnx", "scipy", "sklearn", "optuna"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program where lepton and what it needs beside numpy and onnxruntime are not installed."""


def alone(program, *words, cwd=None):
    return subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(program), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), formats=("c",))
    seal_bundle(made)
    return made.folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures in every mode a user meets."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    base = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize((50, 37))
    alpha = base.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(base.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    saves = {
        "plain.png": (base, {}),
        "same.png": (base.resize((8, 8)), {}),
        "turned.jpg": (base, {"exif": exif}),
        "clear.png": (alpha, {}),
        "cmyk.jpg": (base.convert("CMYK"), {}),
        "palette.gif": (base.convert("P"), {}),
        "grey16.png": (Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16)), {}),
        "grey16.tiff": (Image.fromarray(rng.integers(0, 4096, (20, 30), np.uint16)), {}),
        "float.tiff": (Image.fromarray(rng.random((20, 30), np.float32)), {}),
        "grey.png": (base.convert("L"), {}),
        "bits.png": (base.convert("1"), {}),
        "long.png": (base.resize((200, 9)), {}),
    }
    for name, (picture, options) in saves.items():
        picture.save(folder / name, **options)
    return [folder / name for name in saves]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", ["", "12bit", "unit", "100:3000"])
def test_pixels_of_picture_files_are_those_of_training(pictures, channels, scale):
    known = parse(scale or "16bit")
    for path in pictures:
        wanted = decode.decode(path, channels, (8, 9), known)
        found = device.pixels_of(path, (8, 9, channels), scale)
        assert np.array_equal(found, wanted), path.name
    if not scale:
        deep = next(path for path in pictures if path.name == "grey16.png")
        wanted16 = decode.decode_16_bit(deep, 1, (8, 9))
        assert np.array_equal(device.pixels_16_bit_of(deep, 8, 9, 1), wanted16)


@pytest.mark.parametrize("mode", ["stretch", "shortest", "longest"])
@pytest.mark.parametrize(("size", "how"), [((12, 12), "bicubic"), ((7, 20), "bilinear")])
def test_pictures_are_framed_as_for_models_made_elsewhere(pictures, mode, size, how):
    for rounds_down, channels in ((False, 3), (True, 1)):
        framing = Framing(mode, size, how, (10, 20, 30), rounds_down)
        body = json.loads(framing.to_json())
        for path in pictures:
            wanted = decode.decode(path, channels, (8, 9), SIXTEEN_BIT, framing)
            found = device.pixels_of(path, (8, 9, channels), "", body)
            assert np.array_equal(found, wanted), path.name


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pixels_of_arrays_are_those_of_training(tmp_path, channels):
    rng, path = np.random.default_rng(0), tmp_path / "a.npy"
    for values, scale in (
        (rng.integers(0, 256, (20, 21, channels), np.uint8), ""),
        (rng.integers(0, 256, (channels, 8, 9), np.uint8), ""),
        (rng.random((20, 21, channels)), "unit"),
        (rng.integers(0, 5000, (20, 21, channels), np.uint16), "12bit"),
        (rng.random((8, 9, channels)).astype(np.float32), "-0.5:2"),
    ):
        np.save(path, values)
        known = parse(scale) if scale else None
        wanted = array_files.read_pixels(path, channels, (8, 9), known, None)
        assert np.array_equal(device.pixels_of(path, (8, 9, channels), scale), wanted)
    np.save(path, rng.integers(0, 65536, (20, 21, channels), np.uint16))
    wanted16 = array_files.read_16_bit_pixels(path, channels, (8, 9))
    assert np.array_equal(device.pixels_16_bit_of(path, 8, 9, channels), wanted16)


@pytest.mark.parametrize("program", ["device", "example"])
def test_a_colour_tiff_of_floats_is_named_with_the_way_out_which_gives_its_pixels(
    artifact, tmp_path, program
):
    values = np.random.default_rng(0).uniform(0, 1, (8, 9, 3)).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(values))
    if program == "device":
        done = alone(artifact / "lepton_device.py", "predict", artifact, tmp_path / "a.tif")
        assert done.returncode == 3
    else:
        model = artifact / "model.int8.onnx"
        done = alone(EXAMPLE, model, tmp_path / "a.tif")
        assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "a.tif: no picture that Pillow reads" in line
    assert ".npy" in line
    np.save(tmp_path / "a.npy", values)
    wanted = decode.decode(tmp_path / "a.tif", 3, scale=parse("unit"))
    if program == "device":
        found = device.pixels_of(tmp_path / "a.npy", (8, 9, 3), "unit")
    else:
        found = runpy.run_path(str(EXAMPLE))["pixels_of"](str(tmp_path / "a.npy"), 8, 9, 3, "unit")
        found = found[0]
    np.testing.assert_array_equal(found, wanted)


def test_windows_of_signals_are_those_of_lepton(tmp_path):
    bundle = object.__new__(device.Bundle)
    bundle.shape, bundle.dtype, bundle.stride = (10, 2), np.dtype(np.float32), 4
    bundle.channels = ["x", "y"]
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=shape) for shape in ((10, 2), (2, 10), (37, 2), (3, 10, 2))):
        np.save(tmp_path / "a.npy", values)
        wanted = signal_files.read_windows(tmp_path / "a.npy", 10, 2, ("x", "y"), 4)
        assert np.array_equal(bundle.signal_windows(tmp_path / "a.npy"), wanted.values)
    lines = ["time,y,x", *(f"{n},{a:.3f},{b:.3f}" for n, (a, b) in enumerate(rng.random((25, 2))))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    wanted = signal_files.read_windows(tmp_path / "a.csv", 10, 2, ("x", "y"), 4)
    assert np.array_equal(bundle.signal_windows(tmp_path / "a.csv"), wanted.values)
    np.savetxt(tmp_path / "b.csv", rng.random((25, 2)), delimiter=",")  # As 1.5e-01: no names.
    wanted = signal_files.read_windows(tmp_path / "b.csv", 10, 2, ("x", "y"), 4)
    assert np.array_equal(bundle.signal_windows(tmp_path / "b.csv"), wanted.values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 40_000, -40_000, 0.5])
def test_values_that_lepton_refuses_are_refused(tmp_path, bad):
    """Converted to 16 bits 40,000 would be -25,536, and NaN a number."""
    bundle = object.__new__(device.Bundle)
    bundle.shape, bundle.dtype, bundle.stride = (10, 2), np.dtype(np.int16), 4
    values = np.arange(20.0).reshape(10, 2)
    np.save(tmp_path / "a.npy", values)
    assert bundle.signal_windows(tmp_path / "a.npy").tolist() == [values.tolist()]
    values[3, 1] = bad
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError):
        signal_files.to_int16("a", signal_files.read_windows(tmp_path / "a.npy", 10, 2).values)
    with pytest.raises(ValueError, match=r"finite|int16"):
        bundle.signal_windows(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", values[..., None])
    with pytest.raises(ValueError, match=r"finite|uint16"):
        device.pixels_16_bit_of(tmp_path / "b.npy", 10, 2, 1)


def called(capsys, monkeypatch, *words):
    """Exit code and output of the program, called in this process."""
    monkeypatch.setattr(sys, "argv", ["lepton_device.py", *map(str, words)])
    return device.main(), capsys.readouterr()


WRONG = {
    "class_names": [True, "x", [1], {}, 3],
    "input": [True, [0, 8, 3], [10**9, 10**9, 1], [8, None, 3], [1.5, 8, 3], [], {"a": 1}, 2**64],
    "input_type": [None, "object", "V9", [1], 7],
    "pixel_scale": [1, "5:1", "x", "999999999bit", "9" * 200, "0"],
    "channel_names": [None, "x", [[]]],
    "window_stride": [-1, 1.5, "2", 2**64],
    "reject_below": [None, [], 2, {"model.int8.onnx": "x"}, {"model.int8.onnx": 2}],
    "front_end": [1, [], {"rate": 8000}, {"rate": 0, "window": 1, "stride": 0}],
    "ship": [None, [], "other", {}],
}


@pytest.mark.parametrize("field", WRONG)
def test_wrong_fields_of_an_artifact_are_named(
    artifact, pictures, tmp_path, capsys, monkeypatch, field
):
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    about = json.loads((copy / "about.json").read_text())
    for value in WRONG[field]:
        (copy / "about.json").write_text(json.dumps(about | {field: value}))
        seal_again(copy)
        code, said = called(capsys, monkeypatch, "predict", copy, pictures[0])
        assert (code, said.out) == (3, "")
        assert said.err.startswith(f"error: {copy / 'about.json'}: {field} is "), value
        assert ", the rule is " in said.err
        assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        '"x"',
        "[" * 100_000,
        '{"a": 1',
        "{}",
        '{"files": []}',
        '{"files": {"../x": {"sha256": ""}}}',
    ],
)
def test_other_manifests_are_named(artifact, tmp_path, capsys, monkeypatch, text):
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    (copy / "manifest.json").write_text(text)
    for words in (("verify", copy), ("predict", copy, "a.png"), ("bench", copy)):
        code, said = called(capsys, monkeypatch, *words)
        assert code == 6 if text == "{}" and words[0] == "verify" else 3
        assert "manifest.json" in said.out + said.err


def test_names_of_classes_that_contradict_the_model_are_refused(
    artifact, pictures, tmp_path, capsys, monkeypatch
):
    """Else the program and `lepton predict` answer with different names."""
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    about = json.loads((copy / "about.json").read_text())
    about["class_names"] = about["class_names"][::-1]
    (copy / "about.json").write_text(json.dumps(about))
    seal_again(copy)
    code, said = called(capsys, monkeypatch, "predict", copy, pictures[0])
    assert (code, said.out) == (3, "")
    assert "about.json and model.int8.onnx contradict each other: class_names" in said.err


def test_what_a_runtime_cannot_open_or_a_file_was_changed_is_one_line(
    artifact, tmp_path, capsys, monkeypatch
):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    code, said = called(capsys, monkeypatch, "bench", artifact, tmp_path / "a.onnx")
    assert (code, len(said.err.splitlines())) == (3, 1)
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    with (copy / "c" / "net.c").open("a") as file:
        file.write("#error changed")
    code, said = called(capsys, monkeypatch, "bench", copy)
    assert code == 3
    assert "c/net.c is missing or has changed" in said.err


def test_answers_that_are_no_probabilities_are_refused(artifact, pictures, capsys, monkeypatch):
    for answer in (np.nan, 0.5, -1.0):
        made = np.full((1, 3), answer)
        monkeypatch.setattr(device.OnnxNet, "predict", lambda net, samples, made=made: made)
        code, said = called(capsys, monkeypatch, "predict", artifact, pictures[0])
        assert (code, said.out) == (3, "")
        assert "gives no probabilities" in said.err


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 1)])
def test_windows_of_sound_are_those_of_lepton(tmp_path, width, channels):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 8000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).bytes(width * channels * 1000))
    samples, rate = audio_files.read_audio(path)
    wanted = audio_files.cut_windows(samples, 300, 150)
    sound = {"rate": rate, "window": 300, "stride": 150}
    assert np.array_equal(device.audio_windows(path, sound), wanted)


def test_it_verifies_and_predicts_without_lepton_as_lepton_does(artifact, pictures):
    program = artifact / "lepton_device.py"
    done = alone(program, "verify", artifact)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict: holds" in done.stdout
    done = alone(program, "predict", artifact, *pictures, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)["predictions"]
    for row, wanted in zip(rows, predict(artifact, pictures), strict=True):
        assert (row["file"], row["label"]) == (str(wanted.file), wanted.label)
        assert row["probability"] == pytest.approx(wanted.probability, abs=1e-7)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_c_answers_as_the_onnx_file_does(artifact, pictures):
    program = artifact / "lepton_device.py"
    done = [
        alone(program, "predict", artifact, *pictures, "--format", name, "--json")
        for name in ("c", "onnx")
    ]
    c, onnx = (json.loads(each.stdout)["predictions"] for each in done)
    for one, other in zip(c, onnx, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
    assert "c: differs by at most" in alone(program, "verify", artifact).stdout


def test_pictures_of_any_size_are_answered_as_resized_ones(tmp_path, pictures):
    made = make_bundle(tmp_path, formats=("any_size",))
    seal_bundle(made)
    program, file = made.folder / "lepton_device.py", made.folder / "model.int8.any_size.onnx"
    assert "any_size: differs by at most 0 on" in alone(program, "verify", made.folder).stdout
    resized = alone(program, "predict", made.folder, *pictures, "--json")
    own = alone(program, "predict", made.folder, *pictures, "--json", "--format", "any_size")
    by_file = alone(program, "predict", file, *pictures, "--json")
    rows = [json.loads(done.stdout)["predictions"] for done in (resized, own, by_file)]
    assert rows[1] == rows[2]
    for one, other in zip(*rows[:2], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=0.02)
    with Image.open(pictures[0]) as image:
        upright = ImageOps.exif_transpose(image)
        found = device.Bundle(made.folder, "any_size").samples(pictures[0])
        assert found.shape == (1, *upright.size[::-1], 3)
    assert alone(program, "bench", file, "--seconds", "0.05").returncode == 0


def test_a_changed_file_is_found_and_not_used(artifact, pictures, tmp_path):
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    (copy / "model.fp32.onnx").write_bytes(b"")
    (copy / "extra.txt").write_text("")
    program = artifact / "lepton_device.py"
    done = alone(program, "verify", copy)
    assert done.returncode == 6
    assert "model.fp32.onnx is missing or has changed" in done.stdout
    assert "extra.txt is not listed" in done.stdout
    assert alone(program, "predict", copy, pictures[0]).returncode == 3


def test_other_answers_than_the_golden_ones_are_found(artifact, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "damage", lambda folder: [])
    monkeypatch.setattr(device.OnnxNet, "predict", lambda net, samples: np.full((16, 3), 1 / 3))
    assert device.verify(artifact, "") == 6
    assert "predicts otherwise" in capsys.readouterr().out


def test_files_that_cannot_be_read_are_named_and_the_others_are_classified(artifact, pictures):
    (bad := pictures[0].parent / "bad\x1b.png").write_bytes(b"no picture")
    done = alone(artifact / "lepton_device.py", "predict", artifact, bad, pictures[0])
    assert done.returncode == 3
    assert "bad\\x1b.png: " in done.stderr
    assert done.stdout.startswith(f"{pictures[0]}\t")


def test_files_are_timed_beside_each_other(artifact):
    program, other = artifact / "lepton_device.py", artifact / "model.fp32.onnx"
    done = alone(program, "bench", artifact, other, "--seconds", "0.05", "--json")
    rows = json.loads(done.stdout)["files"]
    c = ["net.c"] if shutil.which("cc") else []
    names = [Path(row["file"]).name for row in rows]
    assert names == ["model.int8.onnx", *c, "model.fp32.onnx"]
    assert rows[0]["ratio"] == 1
    assert all(0 < row["p50_us"] <= row["p95_us"] <= row["p99_us"] for row in rows)


def test_a_wrong_command_is_said(artifact, tmp_path):
    done = alone(artifact / "lepton_device.py", "predict", artifact)
    assert (done.returncode, done.stdout) == (2, "")
    assert "predict needs files" in done.stderr
    for verb in ("verify", "predict"):
        files = ["a.npy"] if verb == "predict" else []
        done = alone(artifact / "lepton_device.py", verb, tmp_path, *files)
        assert done.returncode == 3
        assert f"{tmp_path} is not an artifact of lepton: it has no" in done.stderr


def test_what_is_missing_is_said(artifact):
    done = alone(artifact / "lepton_device.py", "verify", artifact, "--format", "litert")
    assert done.returncode in (3, 7)
    assert "Traceback" not in done.stderr


def test_another_program_in_a_sealed_artifact_is_a_contradiction(artifact, tmp_path):
    """A manifest can be made again: the program of this version is compared with lepton's own."""
    from lepton_automl.artifact.consistency import sealed_problems
    from tests.helpers.artifacts import seal_again

    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    assert sealed_problems(copy) == []
    with (copy / "lepton_device.py").open("a") as file:
        file.write("print('mine')\n")
    seal_again(copy)
    assert any("lepton_device.py" in problem for problem in sealed_problems(copy))
