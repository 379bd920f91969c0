"""`predict` with the files of a further format in place of the ONNX file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from lepton_automl.artifact.format_predictor import FormatPredictor
from lepton_automl.artifact.predict import Classifier, predict
from lepton_automl.errors import ArtifactError, ConfigError, DataError
from lepton_automl.models.formats import load
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle

MARK = "ran"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    if why := load("c").missing():
        pytest.skip(why)
    made = make_bundle(tmp_path_factory.mktemp("made"), formats=("c",))
    seal_bundle(made)
    return made.folder


@pytest.fixture
def pictures(tmp_path):
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for number in range(70):  # more than one batch
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def test_the_files_of_a_format_answer_as_the_onnx_file(artifact, pictures, monkeypatch):
    expected, notes = predict(artifact, [pictures]), []
    with monkeypatch.context() as patched:  # The ONNX file cannot be what answers.
        patched.delattr("lepton_automl.artifact.predict.UntrustedSession")
        found = predict(artifact, [pictures], file_format="c", on_note=notes.append)
    assert notes == []
    assert [(row.file, row.label) for row in found] == [(row.file, row.label) for row in expected]
    apart = [a.probability - b.probability for a, b in zip(found, expected, strict=True)]
    assert np.abs(apart).max() < 2e-6  # Another softmax.
    assert predict(artifact, [pictures], file_format="onnx") == expected


def test_a_format_of_any_size_gets_pictures_in_their_own_sizes(tmp_path, monkeypatch):
    made = make_bundle(tmp_path, formats=("any_size",))
    seal_bundle(made)
    rng, files = np.random.default_rng(1), []
    for number, size in enumerate([(5, 9), (40, 31), (8, 8)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    np.save(tmp_path / "3.npy", rng.integers(0, 256, (17, 6, 3), np.uint8))
    sent, send = [], FormatPredictor.send
    monkeypatch.setattr(
        FormatPredictor,
        "send",
        lambda self, pixels: (sent.append(pixels.shape), send(self, pixels)),
    )
    files.append(tmp_path / "3.npy")
    found = predict(made.folder, files, file_format="any_size")
    assert sent == [(1, 5, 9, 3), (1, 40, 31, 3), (1, 8, 8, 3), (1, 17, 6, 3)]
    for row, other in zip(found, predict(made.folder, files), strict=True):
        assert row.probability == pytest.approx(other.probability, abs=0.02)
    assert found[2].probability == predict(made.folder, files[2:3])[0].probability


def test_it_stays_open_for_several_calls_and_reads_pictures_as_the_onnx_file(artifact, pictures):
    path = next(pictures.glob("*.png"))
    (pictures / "no.png").write_text("no picture")
    errors = []
    with Classifier(artifact, file_format="c", on_unreadable=errors.append) as classifier:
        (first,) = classifier.classify([path])
        (again,) = classifier.classify([path, pictures / "no.png"])
    assert first == again
    assert len(errors) == 1


def test_a_file_that_has_changed_since_it_was_sealed_is_refused(artifact, pictures, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    for name in ("c/net.c", "about.json"):
        path, before = folder / name, (folder / name).read_bytes()
        path.write_bytes(before + b"\n")
        with pytest.raises(ArtifactError, match=name):
            predict(folder, [pictures], file_format="c")
        path.write_bytes(before)
    assert predict(folder, [pictures], file_format="c")


def test_code_that_lepton_would_not_write_is_not_run(artifact, pictures, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    path, mark = folder / "c/net.c", tmp_path / MARK
    path.write_text(
        path.read_text()
        + "#include <stdio.h>\n__attribute__((constructor)) static void run(void)\n"
        + f'{{ fclose(fopen("{mark}", "w")); }}\n'
    )
    seal_again(folder)
    with pytest.raises(DataError, match=r"c/net\.c is not what lepton writes"):
        predict(folder, [pictures], file_format="c")
    assert not mark.exists()


def test_what_is_not_there_is_told_with_a_way_out(artifact, pictures):
    with pytest.raises(DataError, match="no files of the format litert") as caught:
        predict(artifact, [pictures], file_format="litert")
    assert "lepton export RUN --format litert" in caught.value.fix
    with pytest.raises(ConfigError, match="'d' is not a format"):
        predict(artifact, [pictures], file_format="d")
    alone = shutil.copy(artifact / "model.int8.onnx", pictures / "other.onnx")
    with pytest.raises(DataError, match="outside of an artifact"):
        predict(pictures / alone, [pictures], file_format="c")
