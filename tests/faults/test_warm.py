"""The process from which commands are forked."""

from __future__ import annotations

import os

from tests.faults import warm


def test_an_orphan_with_the_number_of_a_later_command_does_not_end_it(monkeypatch):
    read, write = os.pipe()
    real = os.fork
    monkeypatch.setattr(warm, "_command", lambda _: os._exit(os.read(read, 1)[0]))
    # Numbers of processes are given again after 32,768 of them: the first `fork` takes what an
    # orphan has left.
    codes: dict[int, int] = {}

    def fork() -> int:
        if pid := real():
            codes[pid] = -9
        return pid

    monkeypatch.setattr(os, "fork", fork)
    pid = warm._answer({"arguments": ["--version"]}, codes)
    assert pid is not None
    os.write(write, bytes([3]))
    assert warm._answer({"reap": pid}, codes) == 3
    assert codes == {}
    os.close(read)
    os.close(write)
