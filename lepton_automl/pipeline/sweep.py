"""Run a sweep: one `lepton run` after the other, each in a process of its own, into one table."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.scratch import scratch_folder
from lepton_automl.core.subprocesses import start_child
from lepton_automl.core.units import duration
from lepton_automl.cost.latency import Latency, measure
from lepton_automl.errors import ConfigError, Interrupted, LeptonError, MachineError
from lepton_automl.pipeline.status import status
from lepton_automl.pipeline.sweep_file import Cell, Sweep, digest, key
from lepton_automl.pipeline.sweep_table import SweepResult, SweepRow, known_rows, write_table
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.lock import RunLock, check_not_held

_PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "import sys; sys.argv[:2] = ['lepton']; "
    "from lepton_automl.__main__ import main; main()"
)
"""A `lepton` command that ends with its parent, whose process id is its first argument."""
_OUTPUT, _ERRORS = "stdout", "stderr"
_POLL_SECONDS = 0.2
_SECONDS_BETWEEN_PROGRESS = 2.0
_INTERRUPT_SECONDS = 60.0
"""Time that an interrupted run has to end by itself; what is recorded does not depend on it."""
_RATIO_ROUNDS, _RATIO_SECONDS = 25, 0.25
_ENDING = {MachineError.exit_code, Interrupted.exit_code}
"""Exit codes of a run that end the sweep: the next run would end with the same one."""


def run_sweep(sweep: Sweep, out: Path, *, emit: Emit = silent) -> SweepResult:
    """Run what is missing in the table of the sweep in `out`, one run after the other.

    A run that has ended with a verdict, or with limits that no net can meet, is not started again
    unless its options have changed; one that was stopped continues. A run that fails is a row of
    the table.

    Parameters
    ----------
    sweep : Sweep
        Its cells.
    out : Path
        Folder of the sweep.
    emit : callable
        Receives an `Event` when a run begins and ends, and its progress meanwhile.

    Raises
    ------
    ConfigError
        If another command works in the folder, or it holds other files.
    MachineError
        If the machine lacks something that every run needs.
    """
    if (out / "run.toml").exists():
        raise ConfigError(f"{out} is a run", fix="give another folder with --out")
    check_not_held(out)
    known_rows(out)  # Refuses other files before a lock file is made.
    with RunLock(out):
        rows = _rows(sweep, known_rows(out))
        files.write(out / "sweep.toml", sweep.text)
        result = SweepResult(out, sweep.varied, tuple(rows))
        write_table(result)
        for number, row in enumerate(rows, start=1):
            if row.is_final:
                continue
            emit(Event("sweep", f"{number} of {len(rows)}: {row.name}"))
            rows[number - 1] = done = _run(row, out, emit)
            result = dataclasses.replace(result, rows=tuple(rows))
            write_table(result)
            emit(Event("sweep", f"{number} of {len(rows)}: {row.name}: {_summary(done)}"))
    return result


def _rows(sweep: Sweep, known: Mapping[str, SweepRow]) -> list[SweepRow]:
    """A row a cell: the recorded one where its options are the same."""
    # By options, because an option may vary that did not when a run began: its folder keeps its
    # name.
    recorded = {key(row.options): row for row in known.values()}
    kept = {key(cell.options): recorded.get(key(cell.options)) for cell in sweep.cells}
    taken = {row.name for row in kept.values() if row is not None}
    rows = []
    for cell in sweep.cells:
        name = f"{cell.name}_{digest(cell.options)}" if cell.name in taken else cell.name
        rows.append(kept[key(cell.options)] or SweepRow(name, cell.options))
    return rows


def _run(row: SweepRow, out: Path, emit: Emit) -> SweepRow:
    """Run one cell to its end.

    Raises
    ------
    MachineError, Interrupted
        If the run ended with one of them.
    """
    folder, before = out / row.name, _cpu_seconds()
    with scratch_folder() as scratch:
        code = _run_process(Cell(row.name, row.options), folder, scratch, emit)
        answer, last_line = _answer(scratch / _OUTPUT), _last_line(scratch / _ERRORS)
    fresh = SweepRow(
        row.name,
        row.options,
        code,
        seconds=_alive_seconds(folder),
        cpu_seconds=_cpu_seconds() - before,
    )
    if code in _ENDING:
        kind = MachineError if code == MachineError.exit_code else Interrupted
        raise kind(f"{row.name}: {answer.get('error', last_line)}", fix=str(answer.get("fix", "")))
    if "verdict" in answer:
        return _with_figures(fresh, answer, out)
    died = f"killed by {signal.Signals(-code).name}" if code < 0 else f"it failed: {last_line}"
    return dataclasses.replace(fresh, error=str(answer.get("error") or died))


def _run_process(cell: Cell, folder: Path, scratch: Path, emit: Emit) -> int:
    """Run `lepton run` until it ends; its exit code. Its output is in files of `scratch`."""
    path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    with (scratch / _OUTPUT).open("wb") as stdout, (scratch / _ERRORS).open("wb") as stderr:
        process = start_child(
            [sys.executable, "-c", _PROGRAM, str(os.getpid()), *cell.words(folder)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": path},
        )
        try:
            _relay(process, cell.name, RunFolder(folder), emit)
        except BaseException:
            # It keeps what is finished, as after Ctrl-C.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_INTERRUPT_SECONDS)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return int(process.returncode)


def _relay(process: subprocess.Popen[Any], name: str, folder: RunFolder, emit: Emit) -> None:
    """Wait for a run and emit its progress meanwhile."""
    shown, next_time = "", time.monotonic() + _SECONDS_BETWEEN_PROGRESS
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() < next_time:
            continue
        next_time = time.monotonic() + _SECONDS_BETWEEN_PROGRESS
        with contextlib.suppress(LeptonError):  # It has not begun.
            found = status(folder)
            if found.progress and found.progress["message"] != shown:
                shown, stage = found.progress["message"], found.progress["stage"]
                done, total = found.progress["done"], found.progress["total"]
                emit(Event("cell", f"{name}: {stage}: {shown}", done, total))


def _with_figures(row: SweepRow, answer: Mapping[str, Any], out: Path) -> SweepRow:
    """A row with the verdict of a run and the figures of the file that ships."""
    made = dataclasses.replace(
        row,
        error="; ".join(answer["reasons"]),
        verdict=answer["verdict"],
        primary=answer["primary"],
        balanced=answer["balanced"],
    )
    figures = answer[answer["primary"]]
    if figures is None:  # Its files are damaged.
        return made
    file = out / row.name / "artifact" / figures["file"]
    latency = _latency(file)
    return dataclasses.replace(
        made,
        accuracy=figures["accuracy"],
        accuracy_interval=tuple(figures["accuracy_interval"]),
        n_samples=figures["n_samples"],
        size_bytes=figures["size_bytes"],
        latency_ms=figures["latency_ms"],
        latency_ratio=latency.ratio,
        latency_ratio_interval=(latency.ratio_low, latency.ratio_high),
        file=str(file.relative_to(out)),
        sha256=figures["sha256"],
    )


def _latency(file: Path) -> Latency:
    fix = "run the same command again"
    content = untrusted_files.read_bytes(file, untrusted_files.MODEL, fix=fix)
    return measure({"file": content}, rounds=_RATIO_ROUNDS, seconds=_RATIO_SECONDS)["file"]


def _alive_seconds(folder: Path) -> float:
    with contextlib.suppress(LeptonError), RunFolder(folder).read_ledger() as ledger:
        return ledger.alive_seconds()
    return 0.0


def _cpu_seconds() -> float:
    """Processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _answer(path: Path) -> dict[str, Any]:
    """The JSON object that a run has written; empty where it wrote none."""
    with contextlib.suppress(LeptonError):
        found: dict[str, Any] = untrusted_files.read_json(path, fix="", top=dict, finite=False)
        return found
    return {}


def _last_line(path: Path) -> str:
    """The last line that a run has written to stderr, such as that of a traceback."""
    with contextlib.suppress(LeptonError):
        text = untrusted_files.read_text(path, fix="", errors="replace")
        return (text.strip().splitlines() or ["it wrote nothing"])[-1]
    return "it wrote too much"


def _summary(row: SweepRow) -> str:
    if row.accuracy is None:
        return f"failed: {row.error}"
    text = f"{100 * row.accuracy:.2f} %, {row.size_bytes} bytes, {row.verdict}"
    return f"{text}, {duration(row.seconds)}"
