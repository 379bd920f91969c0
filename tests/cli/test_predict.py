from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.artifact.predict import Prediction
from lepton_automl.cli.streams import paths_from
from lepton_automl.errors import DataError
from tests.helpers.artifacts import make_bundle, seal_bundle


def test_artifact_and_files_reach_the_classifier_and_predictions_are_printed(lepton, run_folder):
    answer = [Prediction(Path("a.png"), "cat", 0.9)]
    classify = lepton.fake("artifact.predict.predict", answer)
    done = lepton("predict", str(run_folder), "a.png", "b", "--json", "--format", "c")
    ((given, options),) = classify.asked
    assert given == (run_folder, [Path("a.png"), Path("b")])
    assert options["pixel_scale"] == "auto"
    assert options["file_format"] == "c"
    assert json.loads(done.out) == {
        "predictions": [{"file": "a.png", "label": "cat", "probability": 0.9}]
    }


def test_a_note_on_the_file_is_printed_on_stderr_and_is_in_the_json(
    lepton, run_folder, monkeypatch
):
    def classify(artifact, files, *, on_note, **options):
        on_note("x.onnx is unsealed")
        return [Prediction(Path("a.png"), "cat", 0.9)]

    monkeypatch.setattr("lepton_automl.artifact.predict.predict", classify)
    done = lepton("predict", str(run_folder), "a.png", "--json")
    assert done.exit_code == 0
    assert json.loads(done.out)["notes"] == ["x.onnx is unsealed"]
    assert "note: x.onnx is unsealed" in done.err


def test_a_path_without_an_artifact_is_rejected(lepton, tmp_path):
    done = lepton("predict", str(tmp_path), "a.png")
    assert done.exit_code == 3
    assert "manifest.json" in done.err


def test_at_least_one_file_is_needed(lepton, run_folder):
    assert lepton("predict", str(run_folder)).exit_code == 2


def test_files_that_cannot_be_read_are_named_and_the_exit_code_is_3(
    lepton, run_folder, monkeypatch
):
    def classify(artifact, files, *, on_unreadable, **options):
        on_unreadable(DataError("b.png cannot be read: no picture", fix="leave it out"))
        return [Prediction(Path("a.png"), "cat", 0.9, "dark")]

    monkeypatch.setattr("lepton_automl.artifact.predict.predict", classify)
    done = lepton("predict", str(run_folder), "a.png", "b.png")
    assert done.exit_code == 3
    assert "cat" in done.out
    assert "b.png" not in done.out
    assert "b.png cannot be read" in done.err
    assert "note: dark" in done.err
    done = lepton("predict", str(run_folder), "a.png", "b.png", "--json")
    assert done.exit_code == 3
    answer = json.loads(done.out)
    assert [row["file"] for row in answer["predictions"]] == ["a.png"]
    assert "b.png" in answer["unreadable"][0]["error"]
    assert (answer["exit_code"], answer["predictions"][0]["note"]) == (3, "dark")
    assert "b.png cannot be read" in done.err


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"))
    seal_bundle(made)
    return made.folder


@pytest.fixture
def pictures(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 7, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "list.txt").write_text("no picture")
    return tmp_path


def test_patterns_rows_and_paths_of_standard_input_give_the_same_answers(
    lepton, artifact, pictures
):
    wanted = json.loads(lepton("predict", str(artifact), "0.png", "1.png", "2.png", "--json").out)
    rows = wanted["predictions"]
    done = lepton("predict", str(artifact), "*.png", "--rows", "jsonl")
    assert [json.loads(line) for line in done.out.splitlines()] == rows
    assert json.loads(lepton("predict", str(artifact), "?.*", "--json").out) == wanted
    done = lepton("predict", str(artifact), "*.png", "--rows", "csv")
    head, *lines = csv.reader(io.StringIO(done.out))
    assert head == ["file", "label", "probability", "note"]
    assert [(line[0], line[1]) for line in lines] == [(r["file"], r["label"]) for r in rows]
    for line, row in zip(lines, rows, strict=True):
        assert float(line[2]) == pytest.approx(row["probability"], rel=1e-5)
    for text in (b"0.png\n1.png\r\n\n2.png", b"0.png\x001.png\x002.png\x00"):
        with standard_input(text):
            done = lepton("predict", str(artifact), "-", "--rows", "jsonl")
        assert [json.loads(line) for line in done.out.splitlines()] == rows
    with standard_input(b"1.png\n2.png\n"):
        assert json.loads(lepton("predict", str(artifact), "0.png", "-", "--json").out) == wanted


@contextlib.contextmanager
def standard_input(text):
    """The text in the place of standard input."""
    kept, (ours, theirs) = os.dup(0), os.pipe()
    os.write(theirs, text)
    os.close(theirs)
    os.dup2(ours, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        for handle in (kept, ours):
            os.close(handle)


def test_rows_of_files_that_cannot_be_read_are_left_out_and_the_exit_code_is_3(
    lepton, artifact, pictures
):
    (pictures / "bad\x1b.png").write_bytes(b"no picture")
    done = lepton("predict", str(artifact), "bad\x1b.png", "1.png", "--rows", "csv")
    assert done.exit_code == 3
    assert [line.split(",")[0] for line in done.out.splitlines()] == ["file", "1.png"]
    assert "bad\\x1b.png" in done.err


def test_paths_are_answered_as_they_arrive():
    """A writer that waits for answers is not kept waiting."""
    ours, theirs = os.pipe()
    parts = paths_from(ours)
    os.write(theirs, b"a.png\nb.p")
    assert next(parts) == [Path("a.png")]
    os.write(theirs, b"ng\n" + b"c.png\n" * 130)
    assert next(parts) == [Path("b.png"), *[Path("c.png")] * 63]
    assert [len(next(parts)) for _ in range(2)] == [64, 3]
    os.close(theirs)
    assert list(parts) == []
    os.close(ours)


def test_a_first_block_may_end_before_the_sign_that_separates_paths(monkeypatch):
    blocks = [b"new", b" line\n.png\0b.png\r\0", b""]
    monkeypatch.setattr(os, "read", lambda handle, size: blocks.pop(0))
    assert list(paths_from(0)) == [[Path("new line\n.png"), Path("b.png\r")]]


def test_endless_lines_patterns_without_files_and_two_forms_are_errors(lepton, artifact, pictures):
    with standard_input(b"x" * 60_000):
        assert lepton("predict", str(artifact), "-").exit_code == 3
    done = lepton("predict", str(artifact), "*.gif")
    assert (done.exit_code, "in *.gif" in done.err) == (3, True)
    assert lepton("predict", str(artifact), "0.png", "--json", "--rows", "csv").exit_code == 4
