from __future__ import annotations

import hashlib
import json

import pytest

from lepton_automl.artifact.manifest import damage, is_complete, read_manifest, unusable
from lepton_automl.errors import ArtifactError, DataError

FILES = (
    *("model.int8.onnx", "model.fp32.onnx", "arch.json", "about.json"),
    *("reference/model.fp32.onnx", "reference/arch.json", "labels.txt"),
)


@pytest.fixture
def artifact(tmp_path):
    """A folder whose manifest was written by hand, with the sha256 that hashlib gives."""
    listed = {}
    for number, name in enumerate(FILES):
        content = bytes([number]) * 1000
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        listed[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": 1000}
    change(tmp_path, files=listed)
    return tmp_path


def change(folder, **fields):
    path = folder / "manifest.json"
    new = {"format": 2, "lepton": "1.2", "primary": "float"}
    body = json.loads(path.read_text()) if path.exists() else new
    path.write_text(json.dumps(body | fields))


def listed(folder):
    return json.loads((folder / "manifest.json").read_text())["files"]


def test_a_whole_artifact_is_complete_and_says_what_ships(artifact):
    found = read_manifest(artifact)
    assert set(found.digests) == set(FILES)
    assert (found.lepton, found.primary, found.shipped) == ("1.2", "float", "model.fp32.onnx")
    assert found.damage(artifact) == []
    assert found.content(artifact, "about.json") == (artifact / "about.json").read_bytes()
    assert is_complete(artifact)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_named(artifact, name):
    found = read_manifest(artifact)
    (artifact / name).write_bytes(b"other")
    assert [line.split()[0] for line in found.damage(artifact)] == [name]
    with pytest.raises(ArtifactError, match="has changed"):
        found.content(artifact, name)
    (artifact / name).unlink()
    assert found.damage(artifact) == [f"{name} is missing"]
    with pytest.raises(ArtifactError, match=name):
        found.content(artifact, name)
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
    files = listed(artifact)
    del files["about.json"]
    change(artifact, files=files)
    with pytest.raises(ArtifactError, match=r"about\.json"):
        read_manifest(artifact)


def test_a_file_that_is_not_listed_is_never_given(artifact):
    (artifact / "other.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="does not list it"):
        read_manifest(artifact).content(artifact, "other.onnx")


def test_a_size_that_is_not_that_of_the_file_is_named(artifact):
    files = listed(artifact)
    files["labels.txt"]["bytes"] = 1001
    change(artifact, files=files)
    assert "labels.txt has 1000 bytes" in read_manifest(artifact).damage(artifact)[0]
    with pytest.raises(ArtifactError):
        read_manifest(artifact).content(artifact, "labels.txt")
    assert not is_complete(artifact)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bytes", True), ("bytes", "1000"), ("bytes", 1e3), ("sha256", 3), ("sha256", "A" * 64)],
)
def test_a_field_of_another_type_is_refused(artifact, field, value):
    files = listed(artifact)
    files["labels.txt"][field] = value
    change(artifact, files=files)
    with pytest.raises(ArtifactError, match=rf"labels\.txt|{field}"):
        read_manifest(artifact)


@pytest.mark.parametrize("change_", [{"more": 1}, {"lepton": 1}, {"format": "2"}, {"files": [1]}])
def test_an_unknown_field_or_another_type_is_refused(artifact, change_):
    change(artifact, **change_)
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be used"):
        read_manifest(artifact)


def test_a_key_that_is_given_twice_is_refused(artifact):
    path = artifact / "manifest.json"
    path.write_text(path.read_text()[:-1] + ', "primary": "int8"}')
    with pytest.raises(ArtifactError, match="twice"):
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
