"""Child processes with limits: what comes back, and what exceeds a limit or dies."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lepton_automl.core.limited_process import LimitedProcess, ProcessLimits
from lepton_automl.errors import ConfigError, DataError, MachineError
from tests.helpers.processes import alive, children, eventually

pytestmark = pytest.mark.usefixtures("started_processes")  # Their memory and time are counted.
PROGRAM = """
import os, resource, sys, time
from lepton_automl.core.subprocesses import exit_with_parent
exit_with_parent()
from lepton_automl.core.limited_process import Message, extend_limits, serve
from lepton_automl.errors import ConfigError
held = []
def answer(request):
    fields = {}
    exec(request.fields["code"], globals() | {"request": request, "fields": fields})
    return Message(fields, bytes(reversed(request.payload)))
serve(answer)
"""
LIMITS = ProcessLimits(64 << 20, 1.0, 60.0)


@pytest.fixture(scope="module")
def makes():
    """A function that gives a process, the same one as long as it is usable."""
    made = []

    def usable():
        if not made or not made[-1].is_usable:
            made.append(LimitedProcess(PROGRAM))
        return made[-1]

    yield usable
    for process in made:
        process.close()


@pytest.fixture
def asks(makes):
    def ask(code, payload=b"", limits=LIMITS):
        return makes().call(
            {"code": code}, payload, subject="x.onnx", fix="the way out", limits=limits
        )

    return ask


def test_fields_and_payload_of_any_size_come_back_and_one_process_answers_all(asks):
    pids = set()
    for size in (0, 1, 1 << 16, 5 << 20):
        payload = os.urandom(size)
        answer = asks("fields['pid'] = os.getpid(); print('noise' * 50_000)", payload)
        assert answer.payload == payload[::-1]
        pids.add(answer.fields["pid"])
    assert len(pids) == 1


def test_temporary_files_of_a_killed_process_are_deleted(makes, asks):
    made = asks("import tempfile; fields['made'] = tempfile.mkdtemp()").fields["made"]
    assert Path(made).is_dir()
    with pytest.raises(MachineError, match="signal 9"):
        asks("os.kill(os.getpid(), 9)")
    assert not Path(made).exists()


def test_it_inherits_nothing_and_leaves_no_core():
    code = "fields['open'] = sorted({os.readlink(f'/proc/self/fd/{h}').split(':')[0]"
    code += " for h in range(100) if os.path.lexists(f'/proc/self/fd/{h}')});"
    code += "fields['core'] = resource.getrlimit(resource.RLIMIT_CORE)[0]"
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    handle = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        with LimitedProcess(PROGRAM) as process:
            answer = process.call({"code": code}, subject="x", fix="y", limits=LIMITS)
    finally:
        os.close(handle)
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert answer.fields == {"open": ["/dev/null", "pipe"], "core": 0}


@pytest.mark.parametrize(
    "code", ["held = bytearray(1 << 30)", "raise ValueError('std::bad_alloc')"]
)
def test_too_much_memory_is_an_error_of_the_subject_with_the_limit(asks, code):
    for _ in range(2):  # Also of a second process.
        with pytest.raises(DataError, match=r"x\.onnx takes more than 64 MiB of memory") as caught:
            asks(code)
        assert caught.value.fix == "the way out"


def test_memory_is_counted_from_what_the_process_holds(asks):
    for _ in range(4):
        asks("held.append(bytearray(40 << 20))")
    asks("extend_limits(1 << 30, 0); held.append(bytearray(500 << 20)); held.clear()")


def test_an_endless_loop_ends_at_the_limit_on_processor_time(asks):
    for _ in range(2):  # Used time does not count against the next request.
        asks("end = time.process_time() + 0.7\nwhile time.process_time() < end: pass")
    with pytest.raises(DataError, match="more than 1 s of processor time"):
        asks("while True: pass")


def test_a_process_that_stands_still_ends_at_the_deadline(asks):
    asks("")  # It has started.
    began = time.monotonic()
    with pytest.raises(DataError, match="more than 1 s, the limit"):
        asks("time.sleep(600)", limits=ProcessLimits(64 << 20, 1.0, 1.0))
    assert time.monotonic() - began < 600  # It has not been waited for.


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("os.abort()", DataError, "crashed the process that opened it .signal 6"),
        ("os.kill(os.getpid(), 11)", DataError, "signal 11"),
        ("os._exit(3)", DataError, "exit code 3"),
        ("os.write(2, b'std::bad_alloc'); os.abort()", DataError, "64 MiB of memory"),
        ("os.kill(os.getpid(), 9)", MachineError, "killed by signal 9"),
        ("os.kill(os.getpid(), 15)", MachineError, "killed by signal 15"),
        ("raise ConfigError('bad', fix='good')", ConfigError, "bad"),
        ("1 / 0", RuntimeError, "(?s)x.onnx.*ZeroDivisionError"),
    ],
)
def test_how_it_ends_says_whose_fault_it_is(asks, code, error, says):
    with pytest.raises(error, match=says):
        asks(code)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("os.write(4, b'\\xff' * 64)", "answer of .* bytes"),
        ("os.write(4, b'\\0\\0\\0\\2' + bytes(8) + b'[]')", "it holds an array"),
    ],
)
def test_answers_of_a_damaged_process_are_checked(asks, code, says):
    with pytest.raises(DataError, match=says):
        asks(code, limits=ProcessLimits(64 << 20, 1.0, 5.0))


def test_a_limit_of_the_machine_is_no_fault_of_the_subject():
    words = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
from lepton_automl.core.limited_process import LimitedProcess, ProcessLimits
from lepton_automl.errors import MachineError
with LimitedProcess({PROGRAM!r}) as process:
    try:
        fields = {{"code": "held = bytearray(1 << 30)"}}
        process.call(fields, subject="x", fix="y", limits=ProcessLimits(4 << 30, 1.0, 60.0))
    except MachineError as error:
        print(error.what)
"""
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert "not enough memory" in done.stdout


def test_it_ends_at_ctrl_c_and_with_its_parent(tmp_path):
    words = f"""
from lepton_automl.core.limited_process import LimitedProcess
process = LimitedProcess({PROGRAM!r})
process.call({{"code": "open({str(tmp_path / "up")!r}, 'w').close(); time.sleep(600)"}},
             subject="x", fix="y", limits=None)
"""
    for number in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen([sys.executable, "-c", words], stderr=subprocess.DEVNULL) as parent:
            assert eventually((tmp_path / "up").exists)
            (tmp_path / "up").unlink()
            child = children(parent.pid)
            assert child
            parent.send_signal(number)
            assert eventually(lambda: not alive(child))  # noqa: B023
            parent.wait()


def test_one_that_is_dropped_or_whose_thread_ends_is_killed():
    pids = []

    def start():
        process = LimitedProcess(PROGRAM)
        code = {"code": "fields['pid'] = os.getpid()"}
        answer = process.call(code, subject="x", fix="y", limits=LIMITS)
        pids.append(answer.fields["pid"])

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert eventually(lambda: not alive(pids))


def test_soft_limits_of_the_parent_stay():
    before = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)
    with LimitedProcess(PROGRAM) as process:
        process.call({"code": ""}, subject="x", fix="y", limits=LIMITS)
    after = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)
    assert after == before
