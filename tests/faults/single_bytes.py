"""One changed byte in a file of a sealed artifact, the manifest too: `verify` refuses it.

Its checks run in this process, thousands of them a minute.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from lepton_automl.artifact.consistency import sealed_problems
from lepton_automl.artifact.manifest import MANIFEST
from lepton_automl.errors import ArtifactError, DataError
from tests.faults.driver import Findings, Summary
from tests.helpers.artifacts import make_bundle, seal_bundle

FORMATS = ("any_size", "c", *(("litert",) if find_spec("ai_edge_litert") else ()))


class SingleBytes:
    """All files of an artifact with every format in turn; random offsets and values."""

    name = "single-bytes"

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary:
        """Change one byte, check, and put it back, until the time is over."""
        end = time.monotonic() + seconds
        with tempfile.TemporaryDirectory() as place:
            made = make_bundle(Path(place), formats=FORMATS)
            seal_bundle(made)
            folder = made.folder
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            tried, done = set[tuple[Path, int]](), 0
            while time.monotonic() < end:
                path = files[done % len(files)]
                offset, change = rng.randrange(path.stat().st_size), rng.randrange(1, 256)
                tried.add((path, offset))
                done += 1
                if what := accepted(folder, path, offset, change):
                    name = path.relative_to(folder).as_posix()
                    findings.save(self.name, path, f"{name} {offset} {change}", f"{name}: {what}")
            notes = {
                "files": len(files),
                "bytes": sum(path.stat().st_size for path in files),
                "different bytes that were changed": len(tried),
            }
        return Summary(done, notes)


def accepted(folder: Path, path: Path, offset: int, change: int) -> str:
    """What is wrong with how the checks answer one changed byte; empty where they name its file.

    Parameters
    ----------
    folder, path : Path
        The artifact, and a file in it, which is put back.
    offset : int
    change : int
        Bits that are changed, 1 to 255.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        (whole,) = os.pread(handle, 1, offset)
        os.pwrite(handle, bytes([whole ^ change]), offset)
        try:
            problems = sealed_problems(folder)
        except (ArtifactError, DataError) as error:  # A manifest of another format.
            problems = [error.what]
        finally:
            os.pwrite(handle, bytes([whole]), offset)
    finally:
        os.close(handle)
    name = path.relative_to(folder).as_posix()
    if not problems:
        return "a changed byte is accepted"
    if name != MANIFEST and not any(line.startswith(f"{name} ") for line in problems):
        return f"a changed byte is refused without its name: {problems[0]}"
    return ""


KINDS = (SingleBytes(),)
