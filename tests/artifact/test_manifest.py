from __future__ import annotations

import hashlib
import json

import pytest

from lepton_automl.artifact.manifest import damage, is_complete, read_manifest, unusable
from lepton_automl.errors import DataError

FILES = (
    *("model.int8.onnx", "model.fp32.onnx", "arch.json", "about.json"),
    *("reference/model.fp32.onnx", "reference/arch.json", "labels.txt"),
)


@pytest.fixture
def artifact(tmp_path):
    """A folder whose manifest was written by hand, with the sha256 that hashlib gives."""
    digests = {}
    for number, name in enumerate(FILES):
        content = bytes([number]) * 1000
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    change(tmp_path, files={name: {"sha256": digest} for name, digest in digests.items()})
    return tmp_path


def change(folder, **fields):
    path = folder / "manifest.json"
    body = json.loads(path.read_text()) if path.exists() else {"format": 2, "primary": "float"}
    path.write_text(json.dumps(body | fields))


def test_a_whole_artifact_is_complete_and_says_what_ships(artifact):
    digests, primary = read_manifest(artifact)
    assert set(digests) == set(FILES)
    assert primary == "float"
    assert damage(artifact, digests) == []
    assert is_complete(artifact)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_named(artifact, name):
    digests, _ = read_manifest(artifact)
    (artifact / name).write_bytes(b"other")
    assert [line.split()[0] for line in damage(artifact, digests)] == [name]
    (artifact / name).unlink()
    assert damage(artifact, digests) == [f"{name} is missing"]
    assert not is_complete(artifact)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "reference/../../secret"])
def test_a_path_that_leaves_the_folder_is_never_read(artifact, name):
    (artifact.parent / "secret").write_bytes(b"")
    digest = hashlib.sha256(b"").hexdigest()
    assert damage(artifact, {name: digest}) == [f"{name} lies outside of the artifact"]


def test_without_a_manifest_there_is_no_artifact(tmp_path):
    assert not is_complete(tmp_path)
    with pytest.raises(DataError, match=r"there is no manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": []}', '{"files": {}, "primary": "int8"}', "\xff"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"manifest\.json cannot be used"):
        read_manifest(tmp_path)


def test_a_manifest_must_list_the_files_that_verification_needs(artifact):
    digests, _ = read_manifest(artifact)
    del digests["about.json"]
    change(artifact, files={name: {"sha256": digest} for name, digest in digests.items()})
    with pytest.raises(DataError, match=r"about\.json"):
        read_manifest(artifact)


@pytest.mark.parametrize("primary", ["int4", None, 1])
def test_only_int8_or_float_can_ship(artifact, primary):
    change(artifact, primary=primary)
    with pytest.raises(DataError):
        read_manifest(artifact)


def test_the_message_names_the_file_and_the_way_out(tmp_path):
    error = unusable(tmp_path / "about.json", "it is empty")
    assert str(tmp_path / "about.json") in error.what
    assert "it is empty" in error.what
    assert "lepton export" in error.fix
