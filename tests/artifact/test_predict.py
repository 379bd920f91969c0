from __future__ import annotations

import errno
import glob
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.input_files import input_files
from lepton_automl.artifact.manifest import canonical
from lepton_automl.artifact.predict import predict
from lepton_automl.artifact.sealed_model import locate_model
from lepton_automl.data.pictures.pixel_scale import NAMED
from lepton_automl.errors import ArtifactError, ConfigError, DataError
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import float_onnx
from tests.helpers.artifacts import CLASSES, make_bundle, verdict
from tests.helpers.nets import random_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"))
    writer.seal(made.folder, made.digests, verdict=verdict(), card="", predictions=np.arange(3))
    return made.folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(70):  # more than one batch
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def by_hand(model, path):
    pixels = np.asarray(Image.open(path).convert("RGB"))[None]
    (answer,) = onnxruntime.InferenceSession(str(model)).run(None, {"pixels": pixels})
    return CLASSES[answer[0].argmax()], float(answer[0].max())


def test_each_file_gets_the_label_the_file_gives_it(artifact, pictures):
    files = sorted(pictures.glob("*.png"))
    rows = predict(artifact, files)
    assert [row.file for row in rows] == files
    for row in rows[::10]:
        label, probability = by_hand(artifact / "model.int8.onnx", row.file)
        assert row.label == label
        assert row.probability == pytest.approx(probability)


def test_a_folder_stands_for_its_pictures(artifact, pictures):
    (pictures / "notes.txt").write_text("no picture")
    assert len(predict(artifact, [pictures])) == 70


def test_pictures_of_kinds_that_are_not_read_are_named_unless_there_in_another_kind(
    artifact, pictures, tmp_path
):
    for name in ("a.png", "b.png"):
        shutil.copyfile(next(pictures.glob("*.png")), tmp_path / name)
    for name in ("a.heic", "c.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    for given in (tmp_path, tmp_path / "*"):
        errors = []
        found = predict(artifact, [given], on_unreadable=errors.append)
        assert sorted(each.file.name for each in found) == ["a.png", "b.png"]
        (error,) = errors
        assert "c.HEIC cannot be read: .HEIC is not read: convert it" in error.what


def test_an_onnx_file_is_used_as_given(artifact, pictures):
    alone = predict(artifact / "model.fp32.onnx", [pictures / "03.png"])[0]
    _, probability = by_hand(artifact / "model.fp32.onnx", pictures / "03.png")
    assert alone.probability == pytest.approx(probability)


def test_a_run_folder_stands_for_its_artifact(artifact):
    assert locate_model(artifact.parent).path == artifact / "model.int8.onnx"


def test_the_file_that_ships_is_used(artifact, tmp_path):
    copy = shutil.copytree(artifact, tmp_path / "artifact")
    body = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(canonical(body | {"primary": "float"}))
    assert locate_model(copy).path.name == "model.fp32.onnx"


def test_a_lone_onnx_file_is_enough_and_is_said_to_be_unsealed(artifact, pictures, tmp_path):
    copy, notes = shutil.copy(artifact / "model.int8.onnx", tmp_path / "alone.onnx"), []
    for _ in range(2):
        assert predict(copy, [pictures / "00.png"], on_note=notes.append)[0].label in CLASSES
        (tmp_path / "manifest.json").write_text('{"name": "of a web page"}')
    assert len(notes) == 2
    assert "alone.onnx is unsealed" in notes[0]


def test_a_file_of_an_artifact_is_sealed(artifact, pictures):
    for path in (artifact, *(artifact / name for name in manifest.MODELS)):
        predict(path, [pictures / "00.png"], on_note=pytest.fail)


@pytest.fixture
def copy(artifact, tmp_path):
    return shutil.copytree(artifact, tmp_path / "artifact")


def flipped(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", manifest.MODELS)
def test_a_model_with_a_flipped_byte_is_refused(copy, pictures, name):
    given = copy if name == "model.int8.onnx" else copy / name
    whole = (copy / name).read_bytes()
    for place in range(0, len(whole), len(whole) // 20):
        flipped(copy / name, place)
        with pytest.raises(ArtifactError, match=r"has changed since manifest\.json sealed it"):
            predict(given, [pictures / "00.png"])
        (copy / name).write_bytes(whole)
    predict(given, [pictures / "00.png"])


def test_a_manifest_with_a_changed_digest_or_size_is_refused(copy, pictures):
    path = copy / "manifest.json"
    whole = path.read_text()
    listed = json.loads(whole)["files"]["model.int8.onnx"]
    digest, size = listed["sha256"], str(listed["bytes"])
    other = "0" * 64
    for old, new in ((digest, other), (size, size + "0"), ("int8.onnx", "int4.onnx"), ("{", "")):
        path.write_text(whole.replace(old, new))
        for given in (copy, copy / "model.int8.onnx"):
            with pytest.raises(ArtifactError) as caught:
                predict(given, [pictures / "00.png"])
        assert "alone in another folder" in caught.value.fix or "has changed" in caught.value.what


def test_about_is_believed_only_if_it_is_what_was_sealed(copy, artifact, pictures):
    """The scale of deep pictures comes from it, where the file does not say it."""
    text = (copy / "about.json").read_text()
    (copy / "about.json").write_text(text.replace('"pixel_scale": ""', '"pixel_scale": "12bit"'))
    with pytest.raises(ArtifactError, match=r"about\.json"):
        predict(copy, [pictures / "00.png"])


def test_a_file_of_an_artifact_of_another_format_is_used_as_unsealed(copy, pictures):
    body, notes = json.loads((copy / "manifest.json").read_text()), []
    (copy / "manifest.json").write_text(json.dumps(body | {"format": 1}))
    assert predict(copy / "model.int8.onnx", [pictures / "00.png"], on_note=notes.append)
    assert len(notes) == 1


def test_a_file_that_is_no_picture_is_named(artifact, tmp_path):
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(DataError, match=r"x\.png") as caught:
        predict(artifact, [tmp_path / "x.png"])
    assert "--skip-corrupt" not in caught.value.fix


def test_good_files_are_classified_although_others_cannot_be_read(artifact, pictures, tmp_path):
    (tmp_path / "x.png").write_text("text")
    good = sorted(pictures.glob("*.png"))[:66]
    mixed = [tmp_path / "x.png", *good[:3], tmp_path / "no.png", *good[3:]]
    errors = []
    rows = predict(artifact, mixed, on_unreadable=errors.append)
    assert rows == predict(artifact, good)
    assert [error.what.split(" cannot")[0] for error in errors] == [
        str(tmp_path / "x.png"),
        str(tmp_path / "no.png"),
    ]
    assert predict(artifact, [tmp_path / "x.png"] * 65, on_unreadable=errors.append) == []
    assert len(errors) == 67


def test_the_scale_of_the_training_pictures_is_that_of_the_file(tmp_path):
    (tmp_path / "12").mkdir()
    made = make_bundle(tmp_path / "12", pixel_scale=NAMED["12bit"])
    writer.seal(made.folder, made.digests, verdict=verdict(), card="", predictions=np.arange(3))
    values = np.random.default_rng(1).integers(0, 4096, (8, 8), np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(np.rint(values / 4095 * 255).astype(np.uint8)).save(tmp_path / "plain.png")
    alone = shutil.copy(made.folder / "model.fp32.onnx", tmp_path / "alone.onnx")
    for model in (made.folder, alone):
        deep, plain = predict(model, [tmp_path / "deep.png", tmp_path / "plain.png"])
        assert (deep.label, deep.probability) == (plain.label, plain.probability)
        assert deep.note == ""
    (stated,) = predict(alone, [tmp_path / "deep.png"], pixel_scale="65535")
    assert stated.probability != deep.probability


def test_a_deep_picture_that_the_scale_makes_black_is_remarked(artifact, tmp_path):
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    deep, black = predict(artifact, [tmp_path / "deep.png", tmp_path / "black.png"])
    assert "65535 is taken for white" in deep.note
    assert black.note == ""


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_net_is_named(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"m\.onnx: (not an ONNX file|it has no operators)"):
        predict(path, [tmp_path])


def test_nothing_to_classify_is_an_error(artifact, tmp_path):
    with pytest.raises(DataError, match="no file to classify"):
        predict(artifact, [tmp_path])


def test_a_folder_without_an_artifact_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        predict(tmp_path, [tmp_path])


def test_columns_are_found_by_the_names_of_the_channels_in_the_file(tmp_path):
    """Oracle: the answer to the same values as an array, in the order of training."""
    arch = chain((16, 2), [Stem(8), Conv(8, stride=2), Head()], 2)
    words = writer.channel_metadata(("x", "y"))
    (tmp_path / "net.onnx").write_bytes(float_onnx(random_model(arch), ("run", "walk"), words))
    values = np.random.default_rng(0).normal(0, 3, (16, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    rows = [f"{y:.9g},{n % 3},{x:.9g},walk" for n, (x, y) in enumerate(values)]
    (tmp_path / "a.csv").write_text("\n".join(["y,z,x,label", *rows]) + "\n")
    known, named = predict(tmp_path / "net.onnx", [tmp_path / "a.npy", tmp_path / "a.csv"])
    assert named.label == known.label
    assert named.probability == pytest.approx(known.probability, rel=1e-5)
    assert writer.channel_metadata(()) == {}


def test_arrays_get_what_their_files_get(artifact, tmp_path):
    """Frames of a camera: other sizes than the net's, grey, and pictures of Pillow."""
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 256, shape, np.uint8) for shape in ((8, 8, 3), (30, 17, 3), (9, 12))]
    files = []
    for number, frame in enumerate(frames):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(frame).save(files[-1])
    expected = [(row.label, row.probability) for row in predict(artifact, files)]
    found = predict(artifact, frames)
    assert [(row.label, row.probability) for row in found] == expected
    assert [str(row.file) for row in found] == ["[0]", "[1]", "[2]"]
    images = [Image.fromarray(frame) for frame in frames]
    assert [(row.label, row.probability) for row in predict(artifact, images)] == expected
    (alone,) = predict(artifact, str(files[1]))
    (in_one,) = predict(artifact, frames[1][None])
    assert (alone.label, alone.probability) == (in_one.label, in_one.probability) == expected[1]


def test_arrays_are_read_as_picture_files_or_by_the_scale_of_training(tmp_path):
    made = make_bundle(tmp_path, pixel_scale=NAMED["unit"])
    writer.seal(made.folder, made.digests, verdict=verdict(), card="", predictions=np.arange(3))
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    (expected,) = predict(made.folder, [tmp_path / "plain.png"])
    for frame in (pixels, pixels.astype(np.float32) / 255):
        (found,) = predict(made.folder, [frame])
        assert (found.label, found.probability) == (expected.label, expected.probability)
    dark = pixels % 2  # What a frame holds does not decide how it is read.
    Image.fromarray(dark).save(tmp_path / "dark.png")
    (expected,), (found,) = (predict(made.folder, [each]) for each in (tmp_path / "dark.png", dark))
    assert (found.label, found.probability) == (expected.label, expected.probability)
    with pytest.raises(DataError, match=r"\[0\] has values up to 255, and 1 is white"):
        predict(made.folder, [np.full((8, 8, 3), 255.0)])


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"one array \(8, 8, 3\) is given"),
        ([np.zeros((8, 8, 5), np.uint8)], r"\[0\] holds uint8 \(8, 8, 5\)"),
        ([np.zeros((8, 8, 3))], r"\[0\] holds float64, and the file does not say"),
        ([np.zeros((0, 8, 3), np.uint8)], r"\[0\] is empty"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((), np.uint8)], r"\[1\] holds uint8 \(\)"),
    ],
)
def test_an_array_that_is_no_picture_is_named(artifact, samples, what):
    with pytest.raises(DataError, match=what):
        predict(artifact, samples)


def test_paths_and_arrays_are_not_mixed(artifact):
    with pytest.raises(ConfigError, match="mixed"):
        predict(artifact, ["a.png", np.zeros((8, 8, 3), np.uint8)])


def test_files_in_folders_are_classified_in_the_order_of_their_paths(artifact, tmp_path):
    """Oracle: `Path.rglob`, sorted by the parts of the paths."""
    folder = tmp_path / "folder"
    for name in (
        "b/1.PNG",
        "a.png/2.png",
        "a/3.png",
        "a b.png",
        "..png",
        ".png",
        "a/x.",
        "é/4.png",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format="PNG")
    (folder / "a.text").write_text("")
    (folder / "link.png").symlink_to("a b.png")
    (folder / "linked").symlink_to("a")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    inside = (path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    expected = sorted(filter(os.path.isfile, inside), key=lambda path: path.parts)
    assert len(expected) == 7
    assert [row.file for row in predict(artifact, [folder])] == expected


def test_patterns_with_any_folders_match_as_glob_does_but_follow_no_links(tmp_path, monkeypatch):
    for name in ("a.png", "x/b.png", "x/y/c.png", "x/y/d.gif", "x/.h/e.png", "[z]/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = dict[str, list[Path]]()
    for pattern in (
        "**/*.png",
        "x/**/*.png",
        "**/y/*.png",
        "**/y/**",
        f"{tmp_path}/**/?.png",
        "**",
    ):
        wanted = {Path(path) for path in glob.glob(pattern, recursive=True)}  # noqa: PTH207
        found[pattern] = [path for path in sorted(wanted) if path.suffix == ".png"]
        assert input_files([Path(pattern)], frozenset({".png"})) == found[pattern]
    # glob would go through these links 2^40 times.
    for name in ("self", "x/up", "x/y/here"):
        (tmp_path / name).symlink_to(".")
    for pattern, wanted in found.items():
        assert input_files([Path(pattern)], frozenset({".png"})) == wanted


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def refused(folder):
        if Path(folder).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    for given in (tmp_path, tmp_path / "**" / "*.png"):
        with pytest.raises(DataError, match=f"{tmp_path}/locked cannot be read: Permission denied"):
            input_files([given], frozenset({".png"}))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "", "c"], "the name of a class is ''"),
        (["a", " ", "c"], "the name of a class is ' '"),
        (["a", 1, "c"], "the name of a class is 1"),
        (["a", None, "c"], "the name of a class is None"),
        (["a", "b", "a"], "two classes are named 'a'"),
    ],
)
def test_names_of_classes_that_cannot_be_told_apart_are_refused(artifact, tmp_path, names, said):
    """An empty label stands for "none of these" in what is printed."""
    model = onnx.load(artifact / "model.int8.onnx")
    for item in model.metadata_props:
        if item.key == "labels":
            item.value = json.dumps(names)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(DataError, match=said):
        predict(tmp_path / "a.onnx", np.zeros((1, 8, 8, 3), np.uint8))
