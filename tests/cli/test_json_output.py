from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lepton_automl.artifact.predict import Prediction
from lepton_automl.artifact.provenance import FinalistResult
from lepton_automl.cli.report import json_output, predictions
from lepton_automl.core.decisions import Decision
from lepton_automl.errors import InfeasibleError
from tests.helpers.artifacts import verdict
from tests.helpers.rows import compressed, found


def test_a_verdict_has_the_documented_keys():
    body = json_output.document(verdict(), Path("runs/x/artifact"))
    keys = {"artifact", "sha256", "verdict", "limits", "primary", "int8", "float"}
    assert keys <= set(body)
    assert body["artifact"] == "runs/x/artifact"
    assert body["file"] == "runs/x/artifact/model.int8.onnx"
    assert body["verdict"] == "holds"
    assert body["exit_code"] == 0
    assert json.loads(json.dumps(body))["int8"]["accuracy_interval"] == [0.9681, 0.9940]


def test_decisions_are_listed_with_all_their_fields():
    made = Decision("flip", "no random flips", "40 % of 216", "measured", "--flip on")
    (row,) = json.loads(json.dumps(json_output.document(verdict(), Path("a"), [made])))["decisions"]
    assert row == {
        "name": "flip",
        "choice": "no random flips",
        "evidence": "40 % of 216",
        "certainty": "measured",
        "option": "--flip on",
        "is_detail": False,
    }


def test_a_damaged_artifact_has_reasons_and_no_figures():
    broken = verdict(status="broken", problems=("x is missing",), int8=None, float32=None)
    body = json_output.document(broken, Path("a"))
    assert body["int8"] is None
    assert body["float"] is None
    assert body["file"] is None
    assert body["reasons"] == ["x is missing"]
    assert body["exit_code"] == 6


def test_a_search_lists_every_trial_and_names_the_front():
    body = json.loads(json.dumps(json_output.search_document(found())))
    assert body["winner"] == 1
    assert body["front"] == [0, 1]
    assert [row["number"] for row in body["trials"]] == [0, 1, 2]
    assert body["trials"][1]["size_bytes"] == 12_000
    assert body["trials"][2]["accuracy"] is None


def test_a_search_gives_the_accuracies_of_finalists_before_and_after():
    few = (FinalistResult(1, 0.98, 9, (0.95, 0.97), 27),)
    body = json_output.search_document(dataclasses.replace(found(), finalists=few))
    (row,) = json.loads(json.dumps(body))["finalists"]
    assert row["searched_accuracy"] == 0.98
    assert row["accuracy"] == pytest.approx(0.96)
    assert row["spread"] == pytest.approx(0.02)


def test_a_compression_lists_every_step():
    made = compressed()
    body = json.loads(json.dumps(json_output.compression_document(made)))
    assert body["int8"] == made.int8.digest
    assert [step["name"] for step in body["steps"]] == ["reference", "pruned-1", "quantized"]
    assert [step["is_accepted"] for step in body["steps"]] == [True, False, True]


def test_predictions_are_rows():
    body = predictions.predictions_document([Prediction(Path("a.png"), "cat", 0.5)])
    assert body == {"predictions": [{"file": "a.png", "label": "cat", "probability": 0.5}]}


def test_an_error_has_its_fix():
    body = InfeasibleError("too big", fix="try 2 kB").document()
    assert body == {"error": "too big", "fix": "try 2 kB", "exit_code": 5}


def test_the_documents_say_whether_accuracy_is_balanced():
    assert json_output.document(verdict(balanced=True), Path("a"))["balanced"] is True
    assert json_output.document(verdict(), Path("a"))["balanced"] is False
    balanced = dataclasses.replace(found(), is_balanced=True)
    assert json_output.search_document(balanced)["balanced"] is True
