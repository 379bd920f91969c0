from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_automl.runs import test_set_uses as uses
from tests.helpers.processes import LONGEST_SECONDS

A, B, C = (digit * 64 for digit in "abc")


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LEPTON_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_file_counts_once_on_each_test_part(state):
    assert uses.record("part1", A) == (A,)
    assert uses.record("part1", B) == (A, B)
    assert uses.record("part1", A) == (A, B)
    assert uses.record("part2", B) == (B,)
    assert uses.record("part1", C) == (A, B, C)


def test_what_a_killed_process_has_left_is_deleted_by_the_next(state):
    uses.record("part1", A)
    left = state / f".{uses.FILE_NAME}.123.tmp"
    left.write_text("{")
    assert uses.record("part1", A) == (A,)
    assert not left.exists()


def test_a_count_is_of_different_files_up_to_the_given_one():
    assert uses.count(A) == 1
    assert uses.count(A, [A]) == 1
    assert uses.count(B, [A, B]) == 2
    assert uses.count(A, [A, B]) == 1
    assert uses.count(B, [B], [A, B]) == 2
    assert uses.count(C, [A, C], [B, C]) == 3
    assert uses.count(C, [A, B]) == 3


def test_the_folder_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LEPTON_STATE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert uses.state_folder() == tmp_path / ".local" / "state" / "lepton"
    monkeypatch.setenv("XDG_STATE_HOME", "not/from/the/root")
    assert uses.state_folder() == tmp_path / ".local" / "state" / "lepton"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert uses.state_folder() == tmp_path / "xdg" / "lepton"
    monkeypatch.setenv("LEPTON_STATE_DIR", str(tmp_path / "own"))
    assert uses.state_folder() == tmp_path / "own"


def test_processes_that_record_at_once_lose_nothing(state):
    program = (
        "import sys; from lepton_automl.runs import test_set_uses as uses\n"
        "for n in range(20): uses.record('part', f'{sys.argv[1]}-{n}')"
    )
    # Their own imports are the package's: no torch, so that they run at the same time.
    started = [
        subprocess.Popen([sys.executable, "-c", program, name], env=dict(os.environ))
        for name in ("one", "two", "three")
    ]
    assert [process.wait(timeout=LONGEST_SECONDS) for process in started] == [0, 0, 0]
    recorded = uses.record("part", A)
    assert len(recorded) == len(set(recorded)) == 61


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting"),
        ("[]", "format"),
        ("{}", "format"),
        (json.dumps({"format": 2, "parts": {}}), "format"),
        (json.dumps({"format": 1}), "no test parts"),
    ],
)
def test_a_damaged_file_is_an_error_and_is_left_alone(state, text, said):
    state.mkdir()
    (state / uses.FILE_NAME).write_text(text)
    with pytest.raises(ValueError, match=said):
        uses.record("part", A)
    assert (state / uses.FILE_NAME).read_text() == text


def test_a_folder_that_cannot_be_written_is_an_error(state):
    state.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="state"):
        uses.record("part", A)


def test_a_lock_that_is_never_released_ends_in_an_error(state, monkeypatch):
    monkeypatch.setattr(uses, "_LOCK_SECONDS", 0.0)
    uses.record("part", A)
    with uses._locked(state / uses._LOCK_NAME), pytest.raises(BlockingIOError):
        uses.record("part", B)
    assert uses.record("part", C) == (A, C)
