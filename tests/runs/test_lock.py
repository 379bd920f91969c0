from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_automl.core import files, held_folders
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.runs import lock as locks
from lepton_automl.runs.ledger import Ledger, LedgerView
from lepton_automl.runs.lock import LOCK_FILE, RunLock, check_not_held, is_held
from tests.helpers.runs import digests

FRESH = """
import pathlib, sys, time
from lepton_automl.errors import ConfigError
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
folder = RunFolder(pathlib.Path(sys.argv[1]))
wanted = Definition.from_toml(pathlib.Path(sys.argv[2]).read_text())
print("ready", flush=True)
sys.stdin.readline()
try:
    with folder.claimed(wanted, fresh=sys.argv[3] == "fresh"):
        print("holds", flush=True)
        sys.stdin.readline()
except ConfigError as error:
    print(error.what, flush=True)
"""
DEFINITION = (
    'format = 2\ndata = "digits"\ntest = ""\nskip_corrupt = false\ndata_fingerprint = "ab"\n'
    'space = "tiny"\nspace_digest = "cd"\nobjectives = ["accuracy"]\nseed = 3\n'
    'target = "x86-any"\nprefer = "size"\n\n[limits]\n'
)


def test_only_one_command_holds_the_lock_and_asking_for_it_keeps_nobody_from_it(
    tmp_path, monkeypatch
):
    assert not is_held(tmp_path)
    RunLock(tmp_path).close()
    assert not is_held(tmp_path)
    check_not_held(tmp_path)
    handle = os.open(tmp_path / LOCK_FILE, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    monkeypatch.setattr(locks.time, "sleep", lambda s: fcntl.flock(handle, fcntl.LOCK_UN))
    with RunLock(tmp_path):
        assert is_held(tmp_path)
        monkeypatch.undo()
        for refused in (RunLock, check_not_held):
            with pytest.raises(ConfigError, match="another command works on the run") as caught:
                refused(tmp_path)
            assert "--out" in caught.value.fix
    os.close(handle)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    (tmp_path / "wanted.toml").write_text(DEFINITION)
    with started(tmp_path, "continue") as holder:
        assert holder.stdout.readline() == "ready\n"
        tell(holder)
        assert holder.stdout.readline() == "holds\n"
        assert is_held(tmp_path / "run")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with RunLock(tmp_path / "run"):
            pass


def test_where_files_cannot_be_locked_that_is_said(tmp_path, monkeypatch):
    def refuse(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(MachineError, match="cannot be locked: No locks available") as caught:
        RunLock(tmp_path)
    assert "--out" in caught.value.fix
    assert not is_held(tmp_path)


def started(home: Path, how: str) -> subprocess.Popen[str]:
    """A process that claims the folder `home/run` when it is told to, and holds it."""
    return subprocess.Popen(
        [sys.executable, "-c", FRESH, str(home / "run"), str(home / "wanted.toml"), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("how", ["fresh", "continue"])
def test_of_commands_that_start_at_the_same_moment_one_works_and_the_others_are_refused(
    tmp_path, how
):
    (tmp_path / "wanted.toml").write_text(DEFINITION)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").write_text(DEFINITION)
    (tmp_path / "run" / "kept").write_text("precious")
    processes = [started(tmp_path, how) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        tell(process)
    told = [process.stdout.readline() for process in processes]
    for process in processes:
        process.communicate()
    refused = [text for text in told if text.startswith("another command works on the run")]
    assert (told.count("holds\n"), len(refused)) == (1, 3)
    kept = [path.read_text() for path in tmp_path.glob("run*/kept")]
    assert kept == ["precious"], "moved aside once, or not at all"
    assert (tmp_path / "run" / "kept").exists() == (how == "continue")


def test_a_folder_moved_aside_is_locked_no_more_and_the_one_at_its_path_is(tmp_path, monkeypatch):
    path, aside = tmp_path / "run", tmp_path / "aside"
    first = RunLock(path)

    def move_on(seconds):
        path.rename(aside)
        first.close()
        monkeypatch.undo()

    monkeypatch.setattr(locks.time, "sleep", move_on)
    with RunLock(path):
        assert is_held(path)
        assert not is_held(aside)


def test_nothing_is_written_into_a_folder_that_took_the_place_of_the_run(tmp_path):
    path = tmp_path / "run"
    with Ledger(path / "ledger.db") as ledger:
        ledger.record("trial", "0", {})
        path.rename(tmp_path / "moved")
        with Ledger(path / "ledger.db") as other:
            other.record("trial", "0", {"of": "another run"})
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / "state").write_text("another's")
        before = digests(path)
        for write in (
            lambda: ledger.record("trial", "1", {}),
            lambda: files.write(path / "models" / "best", "mine"),
            lambda: files.remove(path / "checkpoints" / "state"),
            lambda: files.remove_folder(path / "checkpoints"),
            lambda: files.remove_leftovers(path),
            lambda: files.make_folder(path / "artifact"),
        ):
            with pytest.raises(ConfigError, match="moved, deleted or replaced while") as caught:
                write()
            assert "--out" in caught.value.fix
        files.write(tmp_path / "elsewhere", "may be written")
    assert digests(path) == before
    with LedgerView(tmp_path / "moved" / "ledger.db") as view:
        assert view.keys("trial") == ["0"], "what was recorded before stays"


def test_content_that_took_long_to_make_is_not_put_into_another_folder(tmp_path):
    path = tmp_path / "run"

    def chunks():
        path.rename(tmp_path / "moved")
        (path / "cache").mkdir(parents=True)
        yield b"pixels"

    with RunLock(path), pytest.raises(ConfigError, match="moved, deleted or replaced"):
        files.write_chunks(path / "cache" / "pixels.npy", chunks())
    assert digests(path) == {}


def test_a_deleted_folder_is_not_made_again_and_one_that_came_back_is_used(tmp_path):
    path = tmp_path / "run"
    with RunLock(path):
        path.rename(tmp_path / "moved")
        with pytest.raises(ConfigError, match="moved, deleted or replaced"):
            files.write(path / "front.svg", "")
        assert not path.exists()
        (tmp_path / "moved").rename(path)
        files.write(path / "front.svg", "")
        shutil.rmtree(path)
        with pytest.raises(ConfigError, match="moved, deleted or replaced"):
            files.write(path / "front.svg", "")
    files.write(path / "front.svg", "")  # Nobody holds it any more.


def test_a_child_process_checks_the_folders_that_its_parent_holds(tmp_path):
    child = (
        "import pathlib, sys\nfrom lepton_automl.core import files, held_folders\n"
        "held_folders.add_json(sys.argv[1])\nfiles.write(pathlib.Path(sys.argv[2]), '')\n"
    )
    path = tmp_path / "run"
    with RunLock(path):
        command = [sys.executable, "-c", child, held_folders.to_json(), str(path / "weights")]
        assert subprocess.run(command, check=False).returncode == 0
        path.rename(tmp_path / "moved")
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "moved, deleted or replaced" in done.stderr
    assert not path.exists()
