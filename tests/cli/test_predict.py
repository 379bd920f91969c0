from __future__ import annotations

import json
from pathlib import Path

from lepton_automl.artifact.predict import Prediction
from lepton_automl.errors import DataError


def test_artifact_and_files_reach_the_classifier_and_predictions_are_printed(lepton, run_folder):
    answer = [Prediction(Path("a.png"), "cat", 0.9)]
    classify = lepton.fake("artifact.predict.predict", answer)
    done = lepton("predict", str(run_folder), "a.png", "b", "--json")
    ((given, options),) = classify.asked
    assert given == (run_folder, [Path("a.png"), Path("b")])
    assert options["pixel_scale"] == "auto"
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
