"""The memory of processes that is measured is that of the kernel, with their children."""

import os
import subprocess
import sys
import time

from lepton_automl.core import memory
from lepton_automl.core.memory import MemoryWatch, anonymous_bytes, machine_bytes, watched_memory

CHILD = "block = b'x' * (96 << 20); print(flush=True); input()"


def test_the_memory_of_children_counts(monkeypatch):
    before = anonymous_bytes(os.getpid())
    assert before > 10 << 20
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        grown = anonymous_bytes(os.getpid()) - before
        child.stdin.close()
    assert 90 << 20 < grown < 160 << 20


def test_a_limit_that_is_exceeded_is_told_once_and_the_peak_at_the_end(monkeypatch):
    monkeypatch.setattr(memory, "_SECONDS", 0.001)
    told = []
    with watched_memory(1, "--max-memory", told.append):
        while not told:
            time.sleep(0.001)
        time.sleep(0.05)
    above, peak = told
    assert "more than --max-memory 0 MiB" in above.message
    assert peak.data["peak_bytes"] > 10 << 20
    assert not peak.is_detail


def test_without_a_stated_limit_only_the_peak_is_told_as_a_detail(monkeypatch):
    monkeypatch.setattr(memory, "_SECONDS", 0.001)
    told = []
    with watched_memory(1, "", told.append):
        time.sleep(0.1)
    assert [event.is_detail for event in told] == [True]


def test_a_container_has_the_memory_of_its_group(tmp_path, monkeypatch):
    whole = machine_bytes()
    for text, expected in (("max\n", whole), ("1048576\n", 1 << 20), (f"{whole * 2}\n", whole)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(memory, "_CGROUPS", (str(tmp_path / "memory.max"), "/no/such/file"))
        assert machine_bytes() == expected


def test_a_process_that_has_ended_takes_nothing():
    assert anonymous_bytes(2**22 + 1) == 0
    assert MemoryWatch(1, "", print).peak == 0
