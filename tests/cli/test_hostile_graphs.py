"""ONNX files of strangers through the commands that open them: one message, exit 3, no traceback.

Files that take much memory or time end a process with limits; most of them are marked slow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from lepton_automl.artifact import consistency
from lepton_automl.artifact.manifest import INT8
from lepton_automl.artifact.predict import predict
from lepton_automl.artifact.verify import refusal
from lepton_automl.compress.external import load
from lepton_automl.core.limited_process import Message
from lepton_automl.errors import DataError
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.models.untrusted.session import UntrustedSession
from tests.helpers import hostile_graphs as graphs
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle
from tests.helpers.nets import random_arch

HEAVY = {
    "constant of gigabytes": "256 MiB of memory",
    "constant sized by pixels": "256 MiB of memory",
    "Expand sized by pixels": "256 MiB of memory",
    "products of large matrices": "256 MiB of memory",
    "many products": "3 s of processor time",
    "Range of terabytes": "256 MiB of memory",
    "Pad of gigabytes": "256 MiB of memory",
    "Tile of gigabytes": "",
    "random values of gigabytes": "256 MiB of memory",
    "constant of terabytes": "256 MiB of memory",
}
"""Kinds that end their process, and the limit."""
CHECKED = [kind for kind in graphs.HOSTILE if kind not in HEAVY]
ACCEPTED_AS_SCORES = {"447700 per cent", "negative", "sum of 0.3"}
"""Kinds that `compress` takes: results that are no probabilities are scores."""
MOST_SECONDS, MOST_BYTES = 20, 1 << 30
"""Processor time of a command with its processes, twice what it takes; memory of the largest."""


def refused(done, path):
    """One message about the file, exit code 3, no traceback."""
    assert done.exit_code == 3, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert done.err.count("fix: ") == 1
    assert str(path) in done.err


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    return "white.png"


def test_predict_refuses_every_kind_that_can_be_seen_and_the_next_file_is_served(lepton, picture):
    path = Path("model.onnx")
    for kind in CHECKED:
        path.write_bytes(graphs.content(kind))
        done = lepton("predict", str(path), picture)
        refused(done, path)
    path.write_bytes(graphs.classifier().SerializeToString())
    assert lepton("predict", str(path), picture).exit_code == 0


@pytest.mark.parametrize("kind", ["Expand sized by pixels"])
def test_predict_names_the_limit_that_a_file_exceeds(lepton, picture, kind):
    path = graphs.written(Path(), kind)
    done = lepton("predict", str(path), picture)
    refused(done, path)
    assert HEAVY[kind] in done.err


@pytest.mark.parametrize("kind", graphs.LABELS)
def test_class_names_that_do_not_fit_are_refused(lepton, picture, kind):
    made = graphs.classifier()
    made.metadata_props[0].value = graphs.LABELS[kind]
    Path("model.onnx").write_bytes(made.SerializeToString())
    refused(lepton("predict", "model.onnx", picture), "model.onnx")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8, 8, 2), "2 channels are wanted"),
        ((8, 8, 17), "its input is "),
        ((40, 17), "its input is FLOAT"),
    ],
)
def test_inputs_with_other_channels_are_refused(lepton, picture, shape, words):
    file = random_int8_onnx(random_arch(0, input=shape, classes=3), 64)
    Path("model.onnx").write_bytes(file)
    done = lepton("predict", "model.onnx", picture)
    assert done.exit_code == 3
    assert words in done.err


def test_metadata_that_are_no_utf_8_are_refused(lepton, picture):
    made = graphs.classifier()
    made.metadata_props.add(key="note", value="QQQQ")
    Path("model.onnx").write_bytes(made.SerializeToString().replace(b"QQQQ", b"Q\x80QQ"))
    done = lepton("predict", "model.onnx", picture)
    refused(done, "model.onnx")
    assert "not UTF-8" in done.err


def test_pictures_are_not_resized_to_more_than_the_input_asks_for(lepton, picture):
    made = graphs.classifier()
    framing = {"mode": "shortest", "size": [1 << 20, 1 << 20], "interpolation": "bilinear"}
    text = json.dumps(framing | {"fill": [0, 0, 0], "rounds_down": False})
    made.metadata_props.add(key="framing", value=text)
    Path("model.onnx").write_bytes(made.SerializeToString())
    refused(lepton("predict", "model.onnx", picture), "model.onnx")


def test_weights_come_from_the_folder_of_the_file_and_never_from_the_working_directory(
    lepton, picture
):
    weight = graphs.classifier().graph.initializer[0].raw_data
    folder = Path("models")
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(graphs.weights_in("w.bin").SerializeToString())
    Path("w.bin").write_bytes(weight)
    refused(lepton("predict", str(path), picture), path)
    (folder / "w.bin").symlink_to(Path("w.bin").absolute())
    refused(lepton("predict", str(path), picture), path)
    (folder / "w.bin").unlink()
    (folder / "w.bin").write_bytes(weight)
    (beside,) = predict(path, [Path(picture)])
    Path("whole.onnx").write_bytes(graphs.classifier().SerializeToString())
    (whole,) = predict(Path("whole.onnx"), [Path(picture)])
    assert (beside.label, beside.probability) == (whole.label, whole.probability)


def test_a_sealed_artifact_of_a_stranger_is_one_too(lepton, picture, tmp_path, monkeypatch):
    made = make_bundle(tmp_path)
    seal_bundle(made)
    assert refusal(made.folder) is None
    honest = (made.folder / INT8).read_bytes()
    for kind in ("447700 per cent", "loop that never ends", "weights nowhere", "cut off"):
        (made.folder / INT8).write_bytes(graphs.content(kind))
        seal_again(made.folder)
        refused(lepton("predict", str(made.folder), picture), made.folder / INT8)
        found = refusal(made.folder)
        assert found.exit_code == 6
        assert any(INT8 in problem for problem in found.problems)
    grown = onnx.ModelProto.FromString(honest)
    grown.graph.node[-1].output[0] = "soft"
    grown.graph.node.append(helper.make_node("Mul", ["soft", "factor"], ["probabilities"]))
    grown.graph.initializer.append(numpy_helper.from_array(np.float32(4477), "factor"))
    (made.folder / INT8).write_bytes(grown.SerializeToString())
    seal_again(made.folder)
    with monkeypatch.context() as patch:  # As if every document had been adapted.
        patch.setattr(consistency, "sealed_problems", lambda folder: [])
        assert any("no probabilities" in problem for problem in refusal(made.folder).problems)
    (made.folder / INT8).write_bytes(honest)
    seal_again(made.folder)
    assert lepton("predict", str(made.folder), picture).exit_code == 0


@pytest.mark.parametrize("batch", [1, 5, 64, 70])
def test_probabilities_are_those_of_onnx_runtime_to_the_bit(tmp_path, batch):
    content = graphs.classifier().SerializeToString()
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, *graphs.SHAPE), np.uint8)
    session = onnxruntime.InferenceSession(content)
    wanted = [session.run(None, {"pixels": pixels[k : k + 64]})[0] for k in range(0, batch, 64)]
    with UntrustedSession("m.onnx", content, tmp_path) as opened:
        found = opened.predict(pixels)
    assert found.tobytes() == np.concatenate(wanted).tobytes()


def test_compress_refuses_every_kind_that_can_be_seen(tmp_path):
    for kind in CHECKED:
        path = graphs.written(tmp_path, kind)
        request = {"path": str(path), "preprocessing": None, "class_names": graphs.CLASSES}
        if kind in ACCEPTED_AS_SCORES:
            load.answer(Message(request))
            continue
        with pytest.raises(DataError, match=r"model\.onnx"):
            load.answer(Message(request))


def measured(words, folder):
    """How a command ends, what it writes, kB of its largest process, seconds of processor time."""
    program = (
        "import resource, subprocess, sys; "
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "seconds = used.ru_utime + used.ru_stime; ends = [done.returncode, done.stdout]; "
        "import json; print(json.dumps([*ends, done.stderr, used.ru_maxrss, seconds]))"
    )
    command = [sys.executable, "-c", program, sys.executable, "-m", "lepton_automl", *words]
    root = str(Path(__file__).parents[2])
    made = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(made.stdout)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("bundle"))
    seal_bundle(made)
    folder = made.folder.parent
    Image.new("RGB", (8, 8), "white").save(folder / "white.png")
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(0, 256, (60, *graphs.SHAPE), np.uint8), "y": np.arange(60) % 3}
    np.savez(folder / "few.npz", class_names=np.array(graphs.CLASSES), **arrays)
    return made.folder


@pytest.mark.slow  # Minutes; the kinds of limits are tested above and in test_limited_process.
@pytest.mark.parametrize("command", ["predict", "sealed", "verify", "compress"])
@pytest.mark.parametrize("kind", graphs.HOSTILE)
def test_every_kind_through_every_command_in_seconds_and_within_memory(
    bundle, tmp_path, command, kind
):
    artifact = Path(shutil.copytree(bundle, tmp_path / "artifact"))
    path = graphs.written(tmp_path, kind)
    given, picture = str(bundle.parent / "few.npz"), str(bundle.parent / "white.png")
    if command in {"sealed", "verify"}:
        shutil.move(path, artifact / INT8)
        seal_again(artifact)
    words = {
        "predict": ("predict", str(path), picture),
        "sealed": ("predict", str(artifact), picture),
        "verify": ("verify", str(artifact), given, "--quiet"),
        "compress": ("compress", str(path), "--data", given, "--quiet"),
    }[command]
    code, out, err, most, seconds = measured(words, tmp_path)
    assert code in ({3, 6} if command == "verify" else {3}), err
    assert "Traceback" not in out + err
    assert err.count("error: ") == (0 if code == 6 else 1)
    assert most << 10 < MOST_BYTES
    assert seconds < MOST_SECONDS
