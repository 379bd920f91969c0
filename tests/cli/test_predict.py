from __future__ import annotations

import json
from pathlib import Path

from lepton_automl.artifact.predict import Prediction


def test_artifact_and_files_reach_the_classifier_and_predictions_are_printed(lepton, run_folder):
    answer = [Prediction(Path("a.png"), "cat", 0.9)]
    classify = lepton.fake("artifact.predict.predict", answer)
    done = lepton("predict", str(run_folder), "a.png", "b", "--json")
    assert classify.asked == [((run_folder, [Path("a.png"), Path("b")]), {})]
    assert json.loads(done.out) == {
        "predictions": [{"file": "a.png", "label": "cat", "probability": 0.9}]
    }


def test_a_path_without_an_artifact_is_rejected(lepton, tmp_path):
    done = lepton("predict", str(tmp_path), "a.png")
    assert done.exit_code == 3
    assert "manifest.json" in done.err


def test_at_least_one_file_is_needed(lepton, run_folder):
    assert lepton("predict", str(run_folder)).exit_code == 2
