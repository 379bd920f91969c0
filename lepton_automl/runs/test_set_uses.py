"""Count the files that were verified on a test part, over all run folders of a user.

A test part gives an honest accuracy once: a second file that was made after the first result is
chosen by it. A small file in the user's state folder holds, for the fingerprint of every test part,
the sha256 of each file that was verified on it. It stays on this machine.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lepton_automl.core import files, untrusted_files
from lepton_automl.errors import LeptonError

FORMAT = 1
STATE_DIR = "LEPTON_STATE_DIR"
"""Environment variable: the state folder, in place of the default."""
FILE_NAME = "test_set_uses.json"
_LOCK_NAME = "test_set_uses.lock"
_LOCK_SECONDS = 5.0
"""How long `record` waits for another process before it gives up."""


def state_folder() -> Path:
    """`$LEPTON_STATE_DIR`, else `$XDG_STATE_HOME/lepton`, else `~/.local/state/lepton`."""
    if own := os.environ.get(STATE_DIR):
        return Path(own)
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and is ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "lepton"


def record(fingerprint: str, sha256: str) -> tuple[str, ...]:
    """Record that a file is verified on a test part; the same file again changes nothing.

    Parameters
    ----------
    fingerprint : str
        Of the test part.
    sha256 : str
        Of the file.

    Returns
    -------
    tuple of str
        sha256 of every file that was verified on this test part, in the order of their first
        verification; the given one among them.

    Raises
    ------
    OSError
        If the file cannot be read or written, or another process holds its lock.
    ValueError
        If the file is damaged.
    """
    folder = state_folder()
    path = folder / FILE_NAME
    try:
        files.make_durable_folder(folder)
        with _locked(folder / _LOCK_NAME):
            files.remove_leftovers(folder)  # Of a process that was killed while it wrote.
            parts = _read(path)
            known = parts.get(fingerprint, [])
            if sha256 not in known:
                known = [*known, sha256]
                files.write_json(path, {"format": FORMAT, "parts": parts | {fingerprint: known}})
    except LeptonError as error:
        raise OSError(error.what) from error
    return tuple(known)


def count(sha256: str, *sources: Sequence[str]) -> int:
    """Count the different files verified on a test part up to and including one of them.

    Parameters
    ----------
    sha256 : str
        Of that file.
    *sources : sequence of str
        Files by sha256, each sequence in the order of their first verification; a file may be in
        several of them.
    """
    before: set[str] = set()
    for source in sources:
        known = list(source)
        before |= set(known[: known.index(sha256)] if sha256 in known else known)
    return len(before - {sha256}) + 1


def _read(path: Path) -> dict[str, list[str]]:
    if not path.exists():
        return {}
    try:
        body = untrusted_files.read_json(path, fix="remove that file")
    except LeptonError as error:
        raise ValueError(error.what) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    parts = body.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(each, list) for each in parts.values()):
        raise ValueError("it lists no test parts")
    return {str(part): [str(file) for file in known] for part, known in parts.items()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock of all processes of this user until the block ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + _LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
