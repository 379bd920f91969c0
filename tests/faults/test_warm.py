"""The process from which commands are forked."""

from __future__ import annotations

import gc
import os

from tests.faults import warm
from tests.helpers import forked


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


class InACycle:
    """Writes to a descriptor when it is collected."""

    def __init__(self, handle):
        self.itself, self.handle = self, handle

    def __del__(self):
        os.write(self.handle, b"x")


def test_garbage_of_before_a_fork_is_not_collected_in_the_child():
    assert forked.ROOT  # Its import registers what is done at a fork.
    read, write = os.pipe()
    gc.collect()
    gc.disable()
    InACycle(write)
    if not (pid := os.fork()):
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    os.set_blocking(read, False)
    try:
        found = os.read(read, 1)
    except BlockingIOError:
        found = b""
    gc.enable()
    gc.collect()
    assert (found, os.read(read, 1)) == (b"", b"x")
    os.close(read)
    os.close(write)
