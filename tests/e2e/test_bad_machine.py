"""Full and read-only disks, interrupted commands: one message, and the same command goes on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lepton_automl.errors import LeptonError
from lepton_automl.runs.ledger import LedgerView
from tests.helpers import runs


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a small disk, and mounts it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        again = "remount," if place.is_mount() else ""
        words = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here; the injected errors are tested")
        return "disk/run"

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def words(finished_run):
    """The command line of the finished run, without its folder."""
    config, _ = finished_run
    given = ("run", config.data, "--space", str(config.space), "--trials", "2", "--jobs", "1")
    return (*given, "--objective", ",".join(runs.OBJECTIVES), "--quiet")


def answered(done, *said):
    """Exit code 7 and one message."""
    assert done.exit_code == 7, done.err
    assert "Traceback" not in done.err
    assert done.err.count("fix: ") == 1
    for word in said:
        assert word in done.err


def same_file(out, finished_run):
    """The artifact in `out` is that of the run nothing came between."""
    name = "artifact/model.int8.onnx"
    return (Path(out) / name).read_bytes() == (finished_run[0].out / name).read_bytes()


@pytest.mark.slow  # The injected errors below need no mount and show the same.
def test_on_a_disk_that_is_full_the_same_command_goes_on_once_there_is_room(
    lepton, disk, words, finished_run
):
    for size in ("8k", "100k", "208k"):  # The ledger, the cache, a model do not fit.
        done = lepton(*words, "--out", disk(f"size={size}"))
        answered(done, "disk/run", "the same command")
        assert not list(Path("disk").rglob("*.tmp"))
    out = disk("size=8m")
    assert lepton(*words, "--out", out).exit_code == 0
    assert same_file(out, finished_run)


def test_an_injected_full_disk_is_answered_wherever_it_strikes(
    lepton, words, finished_run, monkeypatch
):
    fsync = os.fsync
    for writes in (0, 12):
        left = [writes]

        def full(handle, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return fsync(handle)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            answered(lepton(*words, "--out", "out"), "no space left", "the same command")
        assert not list(Path("out").rglob("*.tmp"))
        assert not (Path("out") / "artifact" / "manifest.json").exists()
    assert lepton(*words, "--out", "out").exit_code == 0
    assert same_file("out", finished_run)


def test_a_read_only_disk_is_named_and_nothing_is_left(lepton, disk, words):
    out = disk("size=1m")
    disk("ro")
    done = lepton(*words, "--out", out, "--json")
    answered(done, "disk/run", "Read-only file system", "--out")
    answer = json.loads(done.out)
    assert answer["exit_code"] == 7
    assert "Read-only file system" in answer["error"]
    assert list(Path("disk").iterdir()) == []


def test_an_injected_read_only_folder_is_named(lepton, words, monkeypatch):
    def refuse(path, mode=0o777, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    answered(lepton(*words, "--out", "out/run"), "out/run", "Read-only file system", "--out")
    assert not Path("out").exists()


def test_verbs_that_only_read_work_on_a_read_only_disk(lepton, disk, finished_run):
    disk("size=8m")
    runs.copy(finished_run[0], Path("disk"))
    disk("ro")
    answer = json.loads(lepton("status", "disk/run", "--json").out)
    assert answer["verdict"] == "holds"
    done = lepton("verify", "disk/run", "--quiet", "--json")
    assert done.exit_code == 0, done.err
    assert json.loads(done.out)["verdict"] == "holds"


@pytest.mark.slow  # tests/e2e/test_kill.py interrupts a run of a small space.
def test_ctrl_c_keeps_the_best_so_far_and_says_how_to_go_on(words, tmp_path):
    more = [*words, "--out", "my run"]
    more[more.index("--trials") + 1] = "500"
    more[more.index("--space") + 1] = "tiny"  # The small one ends soon: it has four nets.
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-m", "lepton_automl", *more],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches every process of the terminal's group.
    )
    try:
        wait_for_rung(tmp_path / "my run" / "ledger.db")
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=240)
    finally:
        child.kill()
        child.wait()
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "continue with: lepton run" in err
    assert "--out 'my run'" in err
    assert (tmp_path / "my run" / "models" / "best" / "weights.safetensors").is_file()


def wait_for_rung(ledger):
    """Return once a candidate has finished its first rung."""
    ends = time.monotonic() + 240
    while time.monotonic() < ends:
        # Before its first moment is over the ledger cannot be read.
        with contextlib.suppress(LeptonError), LedgerView(ledger) as view:
            if view.all("rung"):
                return
        time.sleep(0.2)
    raise AssertionError("no rung was finished")


def test_a_process_of_its_own_ends_with_the_documented_code(tmp_path):
    (tmp_path / "data").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "lepton_automl", "run", "data", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["exit_code"] == 3
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
