"""The threshold for "none of these": in the files, in answers, in the verdict."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from lepton_automl.artifact import lepton_device as device
from lepton_automl.artifact.consistency import sealed_problems
from lepton_automl.artifact.predict import predict
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verify import checked_verdict
from lepton_automl.cli.report import predictions
from lepton_automl.errors import DataError
from lepton_automl.models import onnx_file
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle

INT8 = "model.int8.onnx"


def greatest(file, pixels):
    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {session.get_inputs()[0].name: pixels})[0].max(1)


def words(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), reject=0.1)
    seal_bundle(made)
    return made


def test_each_file_states_its_threshold(made):
    pixels = np.load(made.folder.parent / "validation.pixels.npy")
    about = read_provenance(made.folder)
    assert about.reject_rate == 0.1
    for name in (INT8, "model.fp32.onnx"):
        # 40 samples and 0.1: none below has a chance of 0.9^40 = 1.5 %, one at most of 8 %.
        wanted = np.sort(greatest(made.folder / name, pixels))[0]
        assert float(words(made.folder / name)["reject_below"]) == wanted
        assert about.reject_below[name] == wanted
    assert "reject_below" not in words(made.folder / "reference/model.fp32.onnx")
    (decision,) = (each for each in about.decisions if each.name == "none of these")
    assert (decision.certainty, decision.option) == ("measured", "--reject 0.1")


def test_the_verdict_states_what_is_rejected_on_the_test_part(made):
    found = checked_verdict(made.folder)
    pixels, labels = np.load(made.request.pixels), np.load(made.request.labels)
    session = onnxruntime.InferenceSession(str(made.folder / found.shipped.file))
    answers = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    below = read_provenance(made.folder).reject_below[found.shipped.file]
    rejected = answers.max(1) < below
    told = found.rejection
    assert 0 < rejected.sum() < len(pixels)
    assert (told.n_samples, told.below) == (len(pixels), below)
    assert told.share == pytest.approx(rejected.mean())
    assert told.interval[0] < told.share < told.interval[1]
    right = (answers.argmax(1) == labels)[~rejected]
    assert told.accuracy_of_rest == pytest.approx(right.mean())
    assert "none of these" in (made.folder / "MODEL_CARD.md").read_text()


def test_answers_below_it_are_none_of_the_classes_in_every_program(made, tmp_path, capsys):
    found = checked_verdict(made.folder)
    pixels = np.load(made.request.pixels)
    below = read_provenance(made.folder).reject_below[found.shipped.file]
    wanted = greatest(made.folder / found.shipped.file, pixels) < below
    chosen = np.concatenate([np.flatnonzero(wanted)[:3], np.flatnonzero(~wanted)[:3]])
    files = [tmp_path / f"{n}.npy" for n in range(len(chosen))]
    for file, n in zip(files, chosen, strict=True):
        np.save(file, pixels[n])
    rows = predict(made.folder, files)
    assert [row.rejected for row in rows] == wanted[chosen].tolist()
    assert [row.label == "" for row in rows] == wanted[chosen].tolist()
    said = predictions.predictions_document(rows)["predictions"]
    assert [row.get("rejected", False) for row in said] == wanted[chosen].tolist()
    alone = [row.rejected for row in predict(made.folder / found.shipped.file, files)]
    assert alone == wanted[chosen].tolist()
    for place in (made.folder, made.folder / found.shipped.file):
        assert device.predict(place, list(map(str, files)), "", as_json=True) == 0
        parts = json.loads(capsys.readouterr().out)["predictions"]
        assert [(part["label"], part.get("rejected", False)) for part in parts] == [
            (row.label, row.rejected) for row in rows
        ]


@pytest.mark.parametrize(
    ("options", "word"), [({"reject": 0.05}, "59"), ({"reject": 0.1, "refit": True}, "validation")]
)
def test_there_is_none_where_it_cannot_be_shown(tmp_path, options, word):
    made = make_bundle(tmp_path, **options)
    about = read_provenance(made.folder)
    assert about.reject_below == {}
    assert "reject_below" not in words(made.folder / INT8)
    (decision,) = (each for each in about.decisions if each.name == "none of these")
    assert decision.choice == "no threshold"
    assert word in decision.evidence


def test_a_changed_threshold_is_found(tmp_path):
    made = make_bundle(tmp_path, reject=0.1)
    seal_bundle(made)
    path = made.folder / "about.json"
    body = json.loads(path.read_text())
    body["reject_below"][INT8] = 0.99
    path.write_text(json.dumps(body))
    seal_again(made.folder)
    found = checked_verdict(made.folder)
    assert found.status == "broken"
    assert any("threshold of rejection" in text for text in found.problems)
    problems = sealed_problems(made.folder, graphs=True)
    assert any("reject_below in the metadata" in text for text in problems)


@pytest.mark.parametrize("text", ["nan", "2", "much"])
def test_a_file_with_an_impossible_threshold_is_refused(made, tmp_path, text):
    file = (made.folder / INT8).read_bytes()
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(onnx_file.with_metadata(file, {"reject_below": text}))
    np.save(tmp_path / "one.npy", np.load(made.request.pixels)[0])
    with pytest.raises(DataError, match="reject_below"):
        predict(wrong, [tmp_path / "one.npy"])
