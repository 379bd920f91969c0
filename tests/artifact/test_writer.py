from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil

import numpy as np
import onnxruntime
import pytest

from lepton_automl.artifact import writer
from lepton_automl.artifact.manifest import MODELS, damage, is_complete, read_manifest
from lepton_automl.artifact.provenance import Provenance, read_provenance
from lepton_automl.config import Limits
from lepton_automl.core import files
from lepton_automl.cost import targets
from lepton_automl.cost.latency_model import estimate
from lepton_automl.data import sampling
from lepton_automl.errors import ConfigError, DataError, MachineError
from lepton_automl.models import onnx_file
from tests.helpers.artifacts import CLASSES, make_bundle, verdict


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), limits=Limits(max_drop=0.5))
    writer.seal(
        made.folder, made.digests, verdict=verdict(), card="# card", predictions=np.arange(5)
    )
    return made


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original.folder, tmp_path / "artifact")


def test_the_manifest_lists_every_other_file_with_its_sha256(folder):
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert set(listed) == found - {"manifest.json"}
    for name, item in listed.items():
        content = (folder / name).read_bytes()
        assert item == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_a_sealed_bundle_is_complete_until_a_byte_changes(folder):
    assert is_complete(folder)
    path = folder / "model.int8.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not is_complete(folder)
    assert read_manifest(folder).damage(folder) == [
        "model.int8.onnx has changed since it was written: its sha256 differs"
    ]


def test_a_missing_file_is_named(folder):
    (folder / "golden/int8.npy").unlink()
    assert read_manifest(folder).damage(folder) == ["golden/int8.npy is missing"]


def test_a_manifest_cannot_point_outside_of_the_artifact(folder):
    (folder.parent / "secret").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    assert damage(folder, {"../secret": digest}) == ["../secret lies outside of the artifact"]


def test_without_a_manifest_it_is_not_an_artifact(folder):
    (folder / "manifest.json").unlink()
    assert not is_complete(folder)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"files": 3, "primary": "int8"}',
        '{"files": {"model.int8.onnx": "x"}, "primary": "int8"}',
        '{"files": {}, "primary": "int8"}',
    ],
)
def test_a_wrong_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json cannot be used"):
        read_manifest(folder)


def test_a_manifest_that_ships_neither_file_is_refused(folder):
    body = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(body | {"primary": "both"}))
    with pytest.raises(DataError, match="what ships"):
        read_manifest(folder)


def test_a_bundle_half_rewritten_is_not_complete(original, folder, monkeypatch):
    write, written = files.write, []

    def full_disk(path, content):
        written.append(path)
        if len(written) == 3:
            raise files.write_error(path, OSError(errno.ENOSPC, "No space left on device"))
        return write(path, content)

    monkeypatch.setattr(files, "write", full_disk)
    with pytest.raises(MachineError, match="no space left"):
        make_bundle(folder.parent)
    assert not (folder / "manifest.json").exists()


def test_golden_samples_are_answered_as_onnx_runtime_answers_them(folder):
    pixels = np.load(folder / "golden/pixels.npy")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 8, 8, 3)
    for file, name in (("model.int8.onnx", "int8"), ("model.fp32.onnx", "float")):
        session = onnxruntime.InferenceSession(str(folder / file))
        (answers,) = session.run(None, {"pixels": pixels})
        np.testing.assert_allclose(np.load(folder / f"golden/{name}.npy"), answers, atol=1e-6)


def test_classes_take_turns_among_the_golden_samples():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50)
    chosen = labels[sampling.first_balanced(labels, 9)]
    assert np.bincount(chosen).tolist() == [3, 3, 3]
    assert len(set(sampling.first_balanced(labels, 1000))) == 103


def test_what_the_bundle_says_of_itself_is_read_back(folder):
    about = read_provenance(folder)
    assert about.class_names == CLASSES
    assert about.input == (8, 8, 3)
    assert about.limits == Limits(max_drop=0.5)
    assert about == Provenance.from_json(about.to_json())


def test_the_stride_of_windows_is_in_the_metadata_of_every_file(tmp_path):
    made = make_bundle(tmp_path, window_stride=7)
    assert read_provenance(made.folder).window_stride == 7
    for name in MODELS:
        assert onnx_file.read_metadata((made.folder / name).read_bytes())["stride"] == "7"


def test_the_verdict_and_the_reference_predictions_are_read_back(folder):
    assert writer.read_verdict(folder) == verdict()
    stored = writer.read_array(folder, "reference_test_predictions.npy")
    assert stored.dtype == np.int64
    assert stored.tolist() == [0, 1, 2, 3, 4]


def test_labels_are_a_line_each(folder):
    assert (folder / "labels.txt").read_text().splitlines() == list(CLASSES)


def test_the_same_models_give_the_same_bytes(original, tmp_path):
    again = make_bundle(tmp_path, limits=Limits(max_drop=0.5))
    assert again.digests == original.digests


@pytest.mark.parametrize("name", ["about.json", "verdict.json"])
def test_a_damaged_document_is_named(folder, name):
    (folder / name).write_text("{}")
    with pytest.raises(DataError):
        (read_provenance if name == "about.json" else writer.read_verdict)(folder)


def test_a_damaged_array_is_named(folder):
    (folder / "golden/int8.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"golden/int8\.npy"):
        writer.read_array(folder, "golden/int8.npy")


def test_what_tells_latencies_elsewhere_is_read_back(folder):
    about = read_provenance(folder)
    assert about.latency is None
    told = dataclasses.replace(about, latency=estimate(targets.load("arm64")))
    assert Provenance.from_json(told.to_json()) == told


@pytest.mark.parametrize("name", ["artifact", "artifact/golden"])
def test_an_artifact_is_not_written_through_a_link_out_of_its_run(tmp_path, name):
    """In the run folder of someone else it may lead to any folder of the user."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("mine")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match=f"{link} is a link to {tmp_path}/other"):
        make_bundle(tmp_path / "run")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]
    assert (tmp_path / "other" / "manifest.json").read_text() == "mine"
