from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_automl.core import scratch
from lepton_automl.core.scratch import Scratch, remove_abandoned, scratch_folder
from lepton_automl.errors import MachineError

KILLED = """
import os, sys
from pathlib import Path
from lepton_automl.core.scratch import Scratch
made = Scratch()
(made.path / "deep").mkdir()
(made.path / "deep" / "file").write_text("x")
(made.path / "link").symlink_to(sys.argv[1])
print(made.path, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""
"""Makes a folder, and is killed after a line of input."""


def struck(call, number):
    """How a copy of this process ends that gets a signal at a call that changes the disk."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = []

    def strike(event, _):
        if event in {"open", "os.mkdir", "os.remove", "os.rmdir"}:
            calls.append(event)
            if len(calls) == call:
                os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.addaudithook(strike)
    with scratch_folder() as place:
        (place / "file").write_text("x")
    os._exit(0)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, and no other one."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(scratch, "places", lambda: [place])
    return place


def test_a_folder_is_private_and_in_the_first_place_that_can_be_written(tmp_path, monkeypatch):
    good = tmp_path / "good"
    good.mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TEMP", str(good))
    with scratch_folder() as place:
        assert place.parent == good
        assert place.stat().st_mode & 0o777 == 0o700
        assert not list(place.iterdir())
    assert not list(good.iterdir())


def test_what_a_library_raises_over_a_full_temporary_disk_is_an_error_of_the_machine(monkeypatch):
    with pytest.raises(RuntimeError, match="not a valid model"), scratch_folder() as place:
        raise RuntimeError("not a valid model")
    assert not place.exists()
    monkeypatch.setattr(
        Scratch, "write_failure", lambda self: OSError(errno.ENOSPC, "No space left on device")
    )
    with pytest.raises(MachineError, match="No space left") as caught, scratch_folder():
        raise RuntimeError("not a valid model")
    assert "TMPDIR" in caught.value.fix


def test_a_file_that_a_library_failed_to_write_is_an_error_of_the_machine(tmp_path):
    message = r"files .* cannot be written: a file is not"
    with pytest.raises(MachineError, match=message), scratch_folder() as folder:
        (folder / "inferred.onnx").read_bytes()
    with pytest.raises(FileNotFoundError), scratch_folder():
        (tmp_path / "elsewhere").read_bytes()


def test_an_interruption_while_a_temporary_folder_is_made_leaves_none(monkeypatch, temporary):
    make = os.mkdir

    def interrupted(*arguments, **options):
        make(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_folder():
        pass
    assert not list(temporary.iterdir())


def test_where_no_temporary_folder_can_be_made_the_machine_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "places", lambda: [tmp_path / "missing"])
    with pytest.raises(MachineError, match="No usable temporary") as caught, scratch_folder():
        pass
    assert "TMPDIR" in caught.value.fix


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_at_any_call_leaves_nothing_that_the_next_command_does_not_delete(
    temporary, number
):
    for call in range(1, 20):
        code = struck(call, number)
        names = [path.name for path in temporary.iterdir()]
        assert all(name.startswith("lepton-") for name in names)
        remove_abandoned()
        assert not list(temporary.iterdir())
        if code == 0:
            break
    assert call > 3
    assert code == 0


def test_the_folder_of_a_killed_process_is_deleted_and_that_of_a_living_one_is_not(
    temporary, tmp_path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    words = [sys.executable, "-c", KILLED, str(outside)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        folder = Path(process.stdout.readline().strip())
        remove_abandoned()
        assert (folder / "deep" / "file").exists()
        process.stdin.write("\n")
        process.stdin.close()
        process.wait()
        assert folder.exists()
        # A living process with its id: that of the name is not what decides.
        reused = folder.with_name(f"lepton-{os.getpid()}-{folder.name.rpartition('-')[2]}")
        folder.rename(reused)
        remove_abandoned()
    assert not list(temporary.iterdir())
    assert (outside / "kept").exists()


def test_only_folders_of_ours_are_deleted(temporary, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    name = "lepton-1-0123456789abcdef"
    (temporary / name).symlink_to(outside)
    (temporary / "lepton-2-0123456789abcdef").write_text("a file")
    for other in ("lepton-1", "lepton-1-0123456789abcdef0", "xlepton-1-0123456789abcdef", "l"):
        (temporary / other).mkdir()
    before = sorted(temporary.iterdir())
    remove_abandoned()
    assert sorted(temporary.iterdir()) == before
    assert (outside / "kept").exists()
    (temporary / "lepton-3-0123456789abcdef").mkdir()
    owner = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: owner + 1)
        remove_abandoned()
    assert (temporary / "lepton-3-0123456789abcdef").exists()


def test_a_folder_that_another_command_deletes_before_it_is_locked_is_made_again(
    temporary, monkeypatch
):
    lock = scratch.fcntl.flock
    calls = []

    def late(handle, how):
        calls.append(how)
        if len(calls) == 1:
            remove_abandoned()
        lock(handle, how)

    monkeypatch.setattr(scratch.fcntl, "flock", late)
    with scratch_folder() as place:
        assert place.is_dir()
        remove_abandoned()
        assert place.is_dir()
