from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import IO

import pytest

from lepton_automl.core.subprocesses import start_child
from tests.helpers.processes import eventually
from tests.helpers.search import is_alive

CHILD = """
import sys, time
from lepton_automl.core.subprocesses import exit_with_parent
exit_with_parent()
print("held", flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_ctrl_c_while_a_child_starts_does_not_reach_it() -> None:
    program = CHILD.replace("time.sleep(600)", "")
    arguments = [sys.executable, "-c", program, str(os.getpid())]
    pipe = subprocess.PIPE
    with start_child(arguments, stdout=pipe, stderr=pipe, text=True) as child:
        child.send_signal(signal.SIGINT)
        assert child.communicate() == ("held\n", "")
        assert child.returncode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def started_child(said: IO[str]) -> int:
    """Its process id; the parent and the child print a line each."""
    held, pid = sorted((said.readline(), said.readline()), reverse=True)
    assert held == "held\n"
    return int(pid)


def test_it_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = started_child(parent.stdout)
        parent.kill()
        assert eventually(lambda: not is_alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked for it")
def test_one_that_is_stopped_dies_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = started_child(parent.stdout)
        os.kill(child, signal.SIGSTOP)
        parent.kill()
        assert eventually(lambda: not is_alive(child))


def test_ctrl_c_does_not_end_it() -> None:
    command = [sys.executable, "-c", CHILD, str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.kill()
