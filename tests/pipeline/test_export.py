from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from lepton_automl.artifact.manifest import INT8
from lepton_automl.core.events import Event, silent
from lepton_automl.data.opening import open_dataset
from lepton_automl.errors import DataError
from lepton_automl.pipeline.export import (
    record_use,
    recorded_uses,
    uses_again,
)
from lepton_automl.pipeline.verify import verify as verify_again
from lepton_automl.runs import test_set_uses
from lepton_automl.runs.ledger import Ledger
from tests.helpers import runs

pytestmark = pytest.mark.usefixtures("children_answer_here")
DEFINITION = (
    'format = 2\ndata = "digits"\ntest = ""\nskip_corrupt = false\ndata_fingerprint = "ab"\n'
    'space = "tiny"\nspace_digest = "cd"\nobjectives = ["accuracy"]\nseed = 3\n'
    'target = "x86-any"\nprefer = "size"\n\n[limits]\n'
)


def test_verification_reads_only_and_repeats_every_figure(finished_run):
    config, outcome = finished_run
    before = runs.digests(config.out)
    again = verify_again(outcome.artifact / "model.int8.onnx").verdict
    assert runs.digests(config.out) == before
    assert again.status == "holds"
    assert again.test_set_uses == outcome.verdict.test_set_uses
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


def test_an_artifact_outside_its_run_needs_data(finished_run, tmp_path):
    config, outcome = finished_run
    copied = runs.copy(config, tmp_path).out / "artifact"
    alone = copied.rename(tmp_path / "alone")
    with pytest.raises(DataError, match="data are not known"):
        verify_again(alone)
    verdict = verify_again(alone, data=config.data).verdict
    assert verdict.int8.accuracy == outcome.verdict.int8.accuracy


def test_the_paired_drop_can_be_recomputed_from_the_artifact(finished_run):
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


def test_each_file_of_a_run_counts_once_on_a_test_part(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert record_use(ledger, "a" * 64, "part1", silent) == 1
        assert record_use(ledger, "a" * 64, "part1", silent) == 1
        assert record_use(ledger, "b" * 64, "part1", silent) == 2
        assert record_use(ledger, "a" * 64, "part1", silent) == 1
        assert record_use(ledger, "b" * 64, "part2", silent) == 1
        assert recorded_uses(ledger, "part1") == ("a" * 64, "b" * 64)
        assert recorded_uses(ledger, "part3") == ()


def test_files_of_other_run_folders_count_too(tmp_path):
    for name, sha256, expected in (("one", "a", 1), ("two", "b", 2), ("one", "a", 1)):
        with Ledger(tmp_path / name / "ledger.db") as ledger:
            assert record_use(ledger, sha256 * 64, "part", silent) == expected


def test_a_state_folder_that_cannot_be_used_is_one_message_and_the_run_counts_its_own(
    tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEPTON_STATE_DIR", str(tmp_path / "file"))
    said: list[Event] = []
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert record_use(ledger, "a" * 64, "part", silent) == 1
        assert record_use(ledger, "b" * 64, "part", said.append) == 2
    (event,) = said
    assert str(tmp_path / "file") in event.message
    assert "LEPTON_STATE_DIR" in event.message


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_artifact_is_verified_though_the_ledger_of_its_run_is_damaged(tmp_path, is_damaged):
    artifact, said = tmp_path / "run" / "artifact", []
    artifact.mkdir(parents=True)
    file = artifact / INT8
    file.write_bytes(b"net")
    (tmp_path / "run" / "run.toml").write_text(DEFINITION)
    with Ledger(tmp_path / "run" / "ledger.db", run_id="") as ledger:
        record_use(ledger, "a" * 64, "part", silent)
    if is_damaged:
        ledger.path.write_bytes(b"no database " * 100)
    request = SimpleNamespace(folder=artifact, fingerprint="part")
    digests = {INT8: hashlib.sha256(b"net").hexdigest()}
    assert uses_again(request, digests, said.append) == 2
    warnings = [e.message for e in said if "is not a ledger of lepton" in e.message]
    assert len(warnings) == is_damaged


def test_an_artifact_verified_alone_is_counted_with_files_that_were_verified_before(
    finished_run, tmp_path
):
    config, outcome = finished_run
    alone = runs.copy(config, tmp_path).out.joinpath("artifact").rename(tmp_path / "alone")
    test_set_uses.record(outcome.verdict.test_fingerprint, "f" * 64)
    assert verify_again(alone, data=config.data).verdict.test_set_uses == 2
    assert verify_again(alone, data=config.data).verdict.test_set_uses == 2


def test_a_damaged_artifact_is_not_measured_and_uses_no_test_set(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    (config.out / "artifact" / "model.int8.onnx").write_bytes(b"damaged")
    verdict = verify_again(config.out).verdict
    assert test_set_uses.record(verdict.test_fingerprint, "f" * 64) == ("f" * 64,)
