from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import lepton_automl
from lepton_automl import errors
from lepton_automl.cli.app import app_of
from lepton_automl.errors import LeptonError
from tests.helpers.processes import LONGEST_SECONDS

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LeptonError) and kind is not LeptonError
]
COMMANDS = (
    "run",
    "search",
    "compress",
    "export",
    "verify",
    "pick",
    "status",
    "dashboard",
    "predict",
    "spaces",
    "bench",
)


def test_help_lists_every_command(lepton):
    done = lepton("--help")
    assert done.exit_code == 0
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(lepton, command):
    done = lepton(command, "--help")
    assert done.exit_code == 0
    assert "--json" in done.out


def test_only_the_command_that_is_given_is_built():
    def built(*words):
        return list(typer.main.get_command(app_of(list(words))).commands)

    assert built("status", "predict") == ["status"]
    assert set(built("rnu")) == set(built()) == set(built("--help", "run")) > set(COMMANDS)


def test_the_version(lepton):
    done = lepton("--version")
    assert (done.exit_code, done.out) == (0, f"lepton {lepton_automl.__version__}\n")


@pytest.mark.parametrize("arguments", [("rnu",), ("run",), ("run", "digits", "--bugdet", "3m")])
def test_a_wrong_command_line_exits_with_2_without_a_traceback(lepton, arguments):
    done = lepton(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_prints_its_message_and_fix_and_sets_its_exit_code(lepton, kind):
    lepton.fake("pipeline.run.run", kind("the disk is round", fix="use a square one"))
    done = lepton("run", "digits")
    assert done.exit_code == kind.exit_code
    assert done.out == ""
    assert "the disk is round" in done.err
    assert "use a square one" in done.err
    assert "Traceback" not in done.err


def test_with_json_an_error_is_an_object_on_stdout(lepton):
    lepton.fake("pipeline.run.run", errors.DataError("no data", fix="bring some"))
    done = lepton("run", "digits", "--json")
    assert json.loads(done.out) == {"error": "no data", "fix": "bring some", "exit_code": 3}


def test_an_interrupted_command_prints_the_command_that_continues_it(lepton):
    lepton.fake("pipeline.run.run", KeyboardInterrupt())
    done = lepton("run", "my data.npz", "--seed", "3")
    assert done.exit_code == 130
    assert "lepton run 'my data.npz' --seed 3" in done.err


def test_sigterm_ends_like_ctrl_c(lepton):
    fake = lepton.fake("pipeline.run.run", None)
    fake.act = lambda: os.kill(os.getpid(), signal.SIGTERM)
    done = lepton("run", "digits", "--json")
    assert done.exit_code == 130
    assert json.loads(done.out)["exit_code"] == 130
    assert "lepton run digits" in done.err


def test_an_oserror_for_a_full_disk_is_printed_as_a_message(lepton):
    lepton.fake("pipeline.run.run", OSError(errno.ENOSPC, "No space left", "some/file"))
    done = lepton("run", "digits")
    assert done.exit_code == 7
    assert "some/file" in done.err


def test_with_json_a_wrong_command_line_is_an_object_on_stdout(lepton):
    done = lepton("run", "digits", "--trials", "many", "--json")
    body = json.loads(done.out)
    assert (done.exit_code, body["exit_code"]) == (2, 2)
    assert "--trials" in body["error"]
    assert "--trials" in done.err


def test_an_unexpected_exception_is_not_caught(lepton):
    lepton.fake("pipeline.run.run", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        lepton("run", "digits")


def command(*words, **options):
    """Start `lepton` in a process of its own."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-m", "lepton_automl", *words],
        env=os.environ | {"PYTHONPATH": root},
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_full_disk_for_the_output_ends_with_7_and_one_message():
    with Path("/dev/full").open("w") as full:
        child = command("spaces", "--json", stdout=full)
        _, err = child.communicate(timeout=LONGEST_SECONDS)
    assert child.returncode == 7
    assert "standard output cannot be written" in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_a_closed_pipe_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    child = command("spaces", stdout=writing)
    os.close(writing)
    _, err = child.communicate(timeout=LONGEST_SECONDS)
    assert (child.returncode, err) == (0, "")


def test_ctrl_c_while_modules_load_ends_with_130_and_one_message():
    program = (
        "import os, signal, sys; sys.argv = ['lepton', 'run', 'my data', '--json']\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lepton_automl.cli.app':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from lepton_automl.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "continue with: lepton run 'my data' --json" in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 130


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), MemoryError("no room")]
)
def test_a_machine_that_lacks_something_ends_with_7(lepton, error):
    lepton.fake("pipeline.run.run", error)
    done = lepton("run", "digits", "--json")
    assert done.exit_code == 7
    assert json.loads(done.out)["exit_code"] == 7
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("run", "{}"), 3),
        (("run", "digits", "--out", "{}"), 4),
        (("status", "{}"), 3),
        (("predict", "{}", "a.png"), 3),
        (("verify", "{}"), 3),
        (("spaces", "{}"), 4),
    ],
)
def test_a_name_that_no_file_can_have_is_answered_in_one_line(lepton, words, code):
    done = lepton(*(word.format("n" * 300) for word in words))
    assert done.exit_code == code, done.err
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 2


def test_a_folder_that_was_deleted_under_the_command_is_named(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = f"import os; os.rmdir({str(gone)!r}); from lepton_automl.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", words, "status", "run"],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert done.stderr.splitlines()[0] == "error: the current folder no longer exists"


@pytest.mark.parametrize("place", ["stdout", "stderr"])
def test_a_full_disk_under_stderr_does_not_change_the_exit_code(place, tmp_path):
    words = ("predict", str(tmp_path), "a.png")  # It loads quickly.
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lepton_automl", *words, "--json"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=full if place == "stdout" else subprocess.PIPE,
            stderr=full if place == "stderr" else subprocess.PIPE,
            text=True,
            check=False,
        )
    if place == "stderr":
        assert done.returncode == json.loads(done.stdout)["exit_code"] == 3
    else:
        assert done.returncode == 7
        assert done.stderr.startswith("error: standard output cannot be written")
        assert done.stderr.count("\n") == 2


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_help_into_a_full_disk_ends_with_7(words):
    with Path("/dev/full").open("w") as full:
        child = command(*words, stdout=full)
        _, err = child.communicate(timeout=LONGEST_SECONDS)
    assert child.returncode == 7
    assert err.startswith("error: standard output cannot be written")
    assert err.count("\n") == 2


def test_all_standard_streams_may_be_closed(tmp_path):
    """`<&- >&- 2>&-`: a file that the command opens must not take the place of a stream."""
    words = "exec 0<&- 1>&- 2>&-; exec " + shlex.join(
        [sys.executable, "-m", "lepton_automl", "predict", str(tmp_path), "a.png", "--json"]
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(["sh", "-c", words], env=os.environ | {"PYTHONPATH": root}, check=False)
    assert done.returncode == 3


def test_help_and_errors_are_written_in_ascii_where_the_encoding_is(tmp_path):
    settings = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "lepton_automl", "predict", "gr\u00f6\u00dfe\x1b[31m\u202e", "a"],
        cwd=tmp_path,
        env=os.environ | settings | {"PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3
    first = done.stderr.decode("ascii").splitlines()[0]
    assert first == r"error: gr\xf6\xdfe\x1b[31m\u202e does not exist"


def test_every_command_deletes_the_temporary_folders_of_killed_ones(lepton, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    left = tmp_path / "lepton-1-0123456789abcdef"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").write_text("x")
    assert lepton("spaces").exit_code == 0
    assert not left.exists()
