"""Signatures by OpenSSH: only a trusted key over the manifest that is there counts."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from lepton_automl.artifact import signature
from lepton_automl.artifact.signature import check_signature, sign
from lepton_automl.errors import ArtifactError, ConfigError, DataError, MachineError

if shutil.which("ssh-keygen") is None:
    pytest.skip("ssh-keygen is not installed", allow_module_level=True)


def key(folder, name):
    words = ["-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.org", "-f", folder / name]
    subprocess.run(["ssh-keygen", *map(str, words)], check=True, capture_output=True)
    return folder / name


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: key(folder, name) for name in ("anna", "mallory")}


@pytest.fixture
def signed(tmp_path, keys):
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"files": {}}\n')
    sign(folder, keys["anna"])
    return folder


def allowed(keys, *lines):
    path = keys["anna"].with_name("allowed")
    path.write_text("\n".join(lines))
    return path


def line(keys, name, options=""):
    public = keys[name].with_suffix(".pub").read_text().split()
    return f"{name}@example.org {options} {public[0]} {public[1]}"


def test_a_public_key_or_allowed_signers_confirm_their_own_signature(signed, keys):
    said = check_signature(signed, keys["anna"].with_suffix(".pub"))
    assert said.startswith("ED25519 key SHA256:")
    names = allowed(keys, "# friends", line(keys, "mallory"), line(keys, "anna"))
    said = check_signature(signed, names)
    assert said.startswith("anna@example.org with ED25519 key SHA256:")


def test_another_key_and_another_purpose_are_refused(signed, keys):
    with pytest.raises(ArtifactError, match="not a signature of manifest"):
        check_signature(signed, keys["mallory"].with_suffix(".pub"))
    for other in (line(keys, "mallory"), line(keys, "anna", 'namespaces="git"')):
        with pytest.raises(ArtifactError):
            check_signature(signed, allowed(keys, other))
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-f", str(keys["anna"]), "-n", "git"],
        input=(signed / "manifest.json").read_bytes(),
        capture_output=True,
        check=True,
    )
    (signed / "manifest.json.sig").write_bytes(done.stdout)
    with pytest.raises(ArtifactError):
        check_signature(signed, keys["anna"].with_suffix(".pub"))


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig"])
def test_a_changed_byte_is_noticed(signed, keys, name):
    content = (signed / name).read_bytes()
    for place in range(0, len(content), max(1, len(content) // 6)):
        changed = bytearray(content)
        changed[place] ^= 1
        (signed / name).write_bytes(changed)
        with pytest.raises(ArtifactError):
            check_signature(signed, keys["anna"].with_suffix(".pub"))


def test_an_unsigned_artifact_is_refused_with_the_way_out(signed, keys):
    (signed / "manifest.json.sig").unlink()
    with pytest.raises(ArtifactError, match="not signed") as caught:
        check_signature(signed, keys["anna"].with_suffix(".pub"))
    assert "--sign" in caught.value.fix


def test_files_that_are_no_keys_are_named(signed, keys, tmp_path):
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "none", tmp_path / "text"):
        with pytest.raises(ConfigError, match="--sign"):
            sign(signed, path)
    with pytest.raises(DataError, match="private key"):
        check_signature(signed, keys["anna"])
    with pytest.raises(DataError, match="holds no key"):
        check_signature(signed, tmp_path / "empty")
    with pytest.raises(ArtifactError):
        check_signature(signed, tmp_path / "text")


def test_a_machine_without_openssh_says_so(signed, keys, monkeypatch):
    monkeypatch.setattr(signature.shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="ssh-keygen"):
        check_signature(signed, keys["anna"].with_suffix(".pub"))
    with pytest.raises(MachineError, match="ssh-keygen"):
        sign(signed, keys["anna"])
