from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest

from lepton_automl.data.dataset import open_dataset
from lepton_automl.errors import DataError
from lepton_automl.pipeline.export import log_opening, openings, verify_again
from lepton_automl.runs.ledger import Ledger
from tests.helpers import runs


def test_verification_reads_only_and_repeats_every_figure(finished_run):
    config, outcome = finished_run
    before = runs.digests(config.out)
    again = verify_again(outcome.artifact / "model.int8.onnx").verdict
    assert runs.digests(config.out) == before
    assert again.status == "holds"
    assert again.openings == outcome.verdict.openings
    for mine, theirs in (
        (again.int8, outcome.verdict.int8),
        (again.float32, outcome.verdict.float32),
    ):
        assert (mine.sha256, mine.accuracy, mine.accuracy_interval, mine.float_nodes) == (
            theirs.sha256,
            theirs.accuracy,
            theirs.accuracy_interval,
            theirs.float_nodes,
        )


def test_a_tampered_file_is_named_and_the_verdict_is_broken(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    file = config.out / "artifact" / "model.int8.onnx"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(bytes(damaged))
    verdict = verify_again(file).verdict
    assert verdict.status == "broken"
    assert verdict.exit_code == 6
    assert "model.int8.onnx" in verdict.reasons[0]


def test_an_artifact_alone_needs_to_be_told_its_data(finished_run, tmp_path):
    config, outcome = finished_run
    copied = runs.copy(config, tmp_path).out / "artifact"
    alone = copied.rename(tmp_path / "alone")
    with pytest.raises(DataError, match="data are not known"):
        verify_again(alone)
    verdict = verify_again(alone, data=config.data).verdict
    assert verdict.int8.accuracy == outcome.verdict.int8.accuracy


def test_the_pairing_can_be_repeated_from_the_bundle(finished_run):
    config, outcome = finished_run
    data = open_dataset(config.data, seed=config.seed)
    reference = np.load(outcome.artifact / "reference_test_predictions.npy")
    session = onnxruntime.InferenceSession(outcome.artifact / "model.int8.onnx")
    answers = session.run(None, {"pixels": data.pixels("test", (8, 8))})[0].argmax(1)
    labels = data.test.labels
    lost = 100 * (np.mean(reference == labels) - np.mean(answers == labels))
    assert outcome.verdict.drops["int8"].points == pytest.approx(lost)


def test_the_manifest_lists_every_other_file_of_the_artifact(finished_run):
    folder = finished_run[1].artifact
    manifest = json.loads((folder / "manifest.json").read_text())
    found = runs.digests(folder)
    del found["manifest.json"]
    assert {name: item["sha256"] for name, item in manifest["files"].items()} == found


def test_each_file_opens_a_test_part_once(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert log_opening(ledger, "a" * 64, "part1") == 1
        assert log_opening(ledger, "a" * 64, "part1") == 1
        assert log_opening(ledger, "b" * 64, "part1") == 2
        assert log_opening(ledger, "b" * 64, "part2") == 1
        assert openings(ledger, "part1") == 2
        assert openings(ledger, "part3") == 0
