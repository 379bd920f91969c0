"""A run folder and an artifact of an older format are refused by every command, and stay as is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_automl.artifact import manifest
from lepton_automl.runs import definition as run_definition
from lepton_automl.runs import folder as run_folder
from tests.helpers import runs

DEFINITION = (
    'data = "digits"\ntest = ""\nskip_corrupt = false\ndata_fingerprint = "8dc1581695538a87"\n'
    'space = "tiny"\nspace_digest = "987950a64e457435"\nobjectives = ["accuracy", "size_bytes"]\n'
    'seed = 3\ntarget = "x86-any"\nprefer = "size"\n\n[limits]\n'
)
"""As the version before `format` wrote it."""
RUN_COMMANDS = [
    ("run", "digits", "--out", "old", "--trials", "1"),
    ("search", "digits", "--out", "old", "--trials", "1"),
    ("compress", "old"),
    ("compress", "old", "--max-size-kb", "9"),
    ("compress", "old", "--max-size-kb", "9", "--fresh"),
    ("export", "old"),
    ("pick", "old"),
    ("pick", "old", "--max-size-kb", "9"),
    ("status", "old"),
    ("dashboard", "old"),
]
ARTIFACT_COMMANDS = [
    ("verify", "old"),
    ("verify", "old/artifact/model.int8.onnx", "digits"),
    ("predict", "old", "a.png"),
    ("predict", "old/artifact", "a.png"),
]


@pytest.fixture
def old(tmp_path) -> Path:
    """A finished run of format 1, as far as the commands look at it before they refuse it."""
    folder = tmp_path / "old"
    artifact = folder / "artifact"
    artifact.mkdir(parents=True)
    (folder / "run.toml").write_text(DEFINITION)
    for name in ("ledger.db", "space.toml", "artifact/model.int8.onnx"):
        (folder / name).touch()
    body = {"format": 1, "lepton": "0.1.0", "primary": "int8", "files": {}}
    (artifact / "manifest.json").write_text(json.dumps(body))
    return folder


def refused(lepton, old, words, code):
    if words[0] == "dashboard":
        pytest.importorskip("optuna_dashboard")
    before = runs.digests(old)
    done = lepton(*words)
    assert done.exit_code == code
    assert runs.digests(old) == before
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == done.err.count("fix: ") == 1
    assert "of format 1, made by another version of lepton" in done.err
    assert "reads format 2" in done.err
    return done.err


@pytest.mark.parametrize("words", RUN_COMMANDS, ids=" ".join)
def test_a_run_folder_of_an_older_format_is_refused(lepton, old, words):
    said = refused(lepton, old, words, 4)
    for way_out in ("--fresh", "--out", "the lepton that made it", "can be used as they are"):
        assert way_out in said
    assert not Path("new").exists()


def test_a_run_of_an_older_format_starts_no_other_run(lepton, old):
    words = ("run", "digits", "--out", "new", "--trials", "1", "--warm-start", "old")
    assert "fix: give --warm-start a run of this version" in refused(lepton, old, words, 4)
    assert not Path("new").exists()


@pytest.mark.parametrize("words", ARTIFACT_COMMANDS, ids=" ".join)
def test_an_artifact_of_an_older_format_is_refused(lepton, old, words):
    said = refused(lepton, old, words, 3)
    for way_out in ("the lepton that made it", "lepton predict old/artifact/model.int8.onnx"):
        assert way_out in said


def test_json_says_the_same_in_an_object(lepton, old):
    body = json.loads(lepton("status", "old", "--json").out)
    assert set(body) == {"error", "fix", "exit_code"}
    assert (body["exit_code"], "format 1" in body["error"]) == (4, True)


def test_fresh_moves_an_older_run_aside_unread(tmp_path, old):
    before = runs.digests(old)
    folder = run_folder.RunFolder(old)
    wanted = run_definition.Definition.from_toml(f"format = {run_definition.FORMAT}\n{DEFINITION}")
    with folder.claimed(wanted, fresh=True):
        pass
    assert folder.definition() == wanted
    (aside,) = tmp_path.glob("old.*")
    assert runs.digests(aside) == before


@pytest.mark.parametrize("number", [run_definition.FORMAT + 1, 0, "new"])
def test_a_newer_run_folder_is_refused_too(lepton, old, number):
    (old / "run.toml").write_text(f"format = {json.dumps(number)}\n{DEFINITION}")
    done = lepton("status", "old")
    assert done.exit_code == 4
    assert f"format {number}" in done.err


def test_what_is_written_has_the_number_that_is_read(finished_run):
    folder = finished_run[0].out
    first = (folder / "run.toml").read_text().splitlines()[1]
    assert first == f"format = {run_definition.FORMAT}"
    body = json.loads((folder / "artifact" / "manifest.json").read_text())
    assert body["format"] == manifest.FORMAT
