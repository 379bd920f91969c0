from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lepton_automl.core.subprocesses import run_json
from lepton_automl.errors import DataError, LeptonError, MachineError
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


def died(number: int) -> LeptonError:
    return DataError(f"crashed by {number}", fix="none")


def test_the_answer_comes_back() -> None:
    program = "import json, sys; json.dump({'got': json.load(sys.stdin)}, sys.stdout)"
    assert run_json(program, "[1, 2]", "asking", died) == {"got": [1, 2]}


def test_an_error_of_the_child_is_raised_in_the_parent() -> None:
    program = """print('{"error": "DataError", "what": "bad", "fix": "good"}')"""
    with pytest.raises(DataError, match="bad"):
        run_json(program, "{}", "asking", died)


def test_a_signal_raises_its_error_and_a_bug_shows_its_traceback() -> None:
    with pytest.raises(DataError, match="crashed by 6"):
        run_json("import os; os.abort()", "{}", "asking", died)
    with pytest.raises(MachineError, match="asking was killed by signal 9"):
        run_json("import os; os.kill(os.getpid(), 9)", "{}", "asking", died)
    with pytest.raises(RuntimeError, match=r"(?s)asking failed.*ZeroDivisionError"):
        run_json("1 / 0", "{}", "asking", died)


def test_it_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "held\n"
        parent.kill()
        assert eventually(lambda: not is_alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked for it")
def test_one_that_is_stopped_dies_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "held\n"
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
