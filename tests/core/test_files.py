from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_automl.core import files
from lepton_automl.errors import MachineError

ENDLESS_WRITER = """
import sys, pathlib
from lepton_automl.core import files as durable
path = pathlib.Path(sys.argv[1])
number = 0
while True:
    durable.write(path, bytes([number % 256]) * 200_000)
    print(number, flush=True)
    number += 1
"""


def test_what_is_written_is_read_back_and_folders_are_made(tmp_path):
    path = files.write(tmp_path / "a" / "b" / "file", b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert files.write(path, "né\n").read_text(encoding="utf-8") == "né\n"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_json_keeps_the_order_of_keys_and_ends_with_a_newline(tmp_path):
    text = files.write_json(tmp_path / "x.json", {"z": 1, "a": [None, 0.5]}).read_text()
    assert list(json.loads(text)) == ["z", "a"]
    assert text.endswith("}\n")


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for lines in (1, 3, 8):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS_WRITER, str(path)], stdout=subprocess.PIPE
        ) as writer:
            for _ in range(lines):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1


def _failing(number: int):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, call):
    path = files.write(tmp_path / "file", b"old")
    owner = os if call == "fsync" else Path
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, _failing(errno.ENOSPC))
        with pytest.raises(MachineError, match="no space left"):
            files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_into_a_folder_that_is_moved_meanwhile_leaves_nothing_unfinished(tmp_path):
    folder, aside = tmp_path / "folder", tmp_path / "aside"
    folder.mkdir()

    def chunks():
        yield b"first"
        folder.rename(aside)
        folder.mkdir()
        yield b"second"

    with pytest.raises(MachineError, match="cannot be written"):
        files.write_chunks(folder / "file", chunks())
    assert [*folder.iterdir(), *aside.iterdir()] == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "cannot be written: Read-only file system"),
        (errno.EACCES, "cannot be written: Permission denied"),
        (errno.EIO, "cannot be read or written: Input/output error"),
    ],
)
def test_an_os_error_becomes_a_machine_error_with_path_and_fix(number, words):
    error = files.write_error(Path("/runs/x"), OSError(number, os.strerror(number)))
    assert isinstance(error, MachineError)
    assert words in error.what
    assert "/runs/x" in error.what
    assert "--out" in error.fix


def test_a_file_where_a_folder_should_be_is_a_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        files.write(tmp_path / "file" / "inner", b"x")


def test_only_unfinished_files_of_killed_writers_are_removed(tmp_path):
    kept = [files.write(tmp_path / name, b"x") for name in ("a", "in/b.tmp", ".c", "in/d.tmp.e")]
    left = [tmp_path / "in" / ".b.7.tmp", tmp_path / ".a.123.tmp"]
    for path in left:
        path.touch()
    assert all(map(files.is_leftover, left))
    files.remove_leftovers(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
        ImportError("libtorch.so: failed to map segment from shared object"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ],
)
def test_errors_of_the_machine_are_told_from_others(error):
    assert isinstance(files.machine_error(error), MachineError)


@pytest.mark.parametrize(
    "error", [ImportError("no module"), ValueError("x"), OSError(errno.ENOENT, "gone", "x")]
)
def test_other_errors_are_no_errors_of_the_machine(error):
    assert files.machine_error(error) is None
