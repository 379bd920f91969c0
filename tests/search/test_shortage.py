from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lepton_automl.search import shortage

ALLOCATING = """
import resource, sys, torch
from lepton_automl.search.shortage import is_shortage
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    torch.zeros(1 << 36) if sys.argv[1] == "torch" else bytearray(1 << 36)
except BaseException as error:
    print(type(error).__name__, is_shortage(error))
"""


@pytest.mark.parametrize("what", ["torch", "python"])
def test_what_is_really_raised_where_memory_ends_is_known(what: str) -> None:
    command = [sys.executable, "-c", ALLOCATING, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "True", done.stdout


def test_other_errors_are_no_shortage() -> None:
    assert shortage.is_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    for error in (RuntimeError("size mismatch"), ValueError("out of memory"), OSError(28, "full")):
        assert not shortage.is_shortage(error)


def test_the_kernels_counter_tells_its_kills_from_a_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    monkeypatch.setattr(shortage, "COUNTERS", (counter, tmp_path / "none"))
    counter.write_text("pgfault 7\noom_kill 3\noom_kill_disable 0\n")
    before = shortage.kills_for_memory()
    assert before == 3
    assert not shortage.was_shortage(-signal.SIGKILL, before)
    counter.write_text("pgfault 9\noom_kill 4\n")
    assert shortage.was_shortage(-signal.SIGKILL, before)
    assert not shortage.was_shortage(-signal.SIGTERM, before)
    assert not shortage.was_shortage(1, before)


def test_without_a_counter_kill_9_is_taken_for_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "COUNTERS", ())
    assert shortage.kills_for_memory() is None
    assert shortage.was_shortage(-signal.SIGKILL, None)
