"""What is changed in a command before it begins: shorter measurements, other clocks."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.warm import mark


def apply_usual() -> None:
    """Measure latencies briefly: no case depends on their values."""
    from lepton_automl.artifact import measurements
    from lepton_automl.cost.latency import Stopwatch

    measurements.SECONDS, measurements.ROUNDS = 0.002, 6
    quiet = Stopwatch.quiet_reference_ms
    Stopwatch.quiet_reference_ms = lambda self, **_: quiet(self, rounds=3, seconds=0.001)


def mark_acknowledged() -> None:
    """Record in the log of the shim every event and file that the command relies on from then."""
    from lepton_automl.core import files
    from lepton_automl.runs.ledger import Ledger

    record, write = Ledger.record, files.write_chunks

    def recorded(self: Any, kind: str, key: str, value: Any) -> None:
        record(self, kind, key, value)
        mark(f"event {kind}\t{key}")

    def written(path: Any, chunks: Any) -> Any:
        result = write(path, chunks)
        mark(f"file {path.absolute()}")
        return result

    Ledger.record, files.write_chunks = recorded, written


def shift_clock(*steps: tuple[float, float]) -> None:
    """Set the clock of the calendar at some moments; the monotonic one goes on.

    Parameters
    ----------
    *steps : tuple of float
        Seconds since the start of the command, and seconds by which the clock is ahead from then.
    """
    real, begun = time.time, time.monotonic()

    def shifted() -> float:
        since = time.monotonic() - begun
        return real() + ([0.0] + [ahead for at, ahead in steps if at <= since])[-1]

    time.time = shifted


def jump_monotonic(at: float, seconds: float) -> None:
    """Let all clocks jump forward once, as after a suspended machine.

    Parameters
    ----------
    at : float
        Seconds since the start of the command.
    seconds : float
        How far.
    """
    begun = time.monotonic()
    for name in ("time", "monotonic", "perf_counter"):
        real = getattr(time, name)

        def jumped(real: Any = real, clock: Any = time.monotonic) -> float:
            return real() + (seconds if clock() - begun >= at else 0.0)

        setattr(time, name, jumped)


def list_modules(place: str) -> None:
    """Write the names of all imported modules to a file when the process ends."""
    exit_now = os._exit

    def listed(code: int) -> None:
        with Path(place).open("a") as file:
            file.writelines(f"{name}\n" for name in sys.modules)
        exit_now(code)

    os._exit = listed


def short_store(patience: float) -> None:
    """Let commands decide soon whether another one works on a run, and give a store up soon.

    Parameters
    ----------
    patience : float
        Seconds without a new generation after which a command counts as lost.
    """
    from lepton_automl.core import object_storage
    from lepton_automl.runs import store, store_copy, stored_run

    store.PATIENCE_SECONDS = patience
    for module in (store, store_copy, stored_run):
        module.BEAT_SECONDS = patience / 4
    store_copy._PAUSE_SECONDS = 0.02
    store_copy._LONGEST_WAIT = store_copy._LAST_WAIT = 0.1
    store_copy.END_SECONDS, store_copy._INTERRUPTED_SECONDS = 2.0, 0.5
    object_storage._FIRST_PAUSE = 0.01
    stored_run.START_SECONDS = 0.5


def slow_final_trainings(run: str, seconds: float) -> None:
    """Let every batch take longer from the first state of a final training on.

    Parameters
    ----------
    run : str
        Folder of the run.
    seconds : float
        By which a batch takes longer.
    """
    from lepton_automl.training.schedule import Schedule

    advance, folder = Schedule.advance, Path(run) / "checkpoints"

    def slow(self: Any) -> None:
        if any(folder.glob("*final*/resume.safetensors")):
            time.sleep(seconds)
        advance(self)

    Schedule.advance = slow  # type: ignore[method-assign]


def save_often(seconds: float) -> None:
    """Write the state of a training to continue from after so many seconds, of tiny nets too."""
    from lepton_automl.training import checkpoint, loader

    checkpoint._INTERVAL_SECONDS = seconds
    loader._CHUNK_BYTES = dict.fromkeys(loader._CHUNK_BYTES, 1 << 16)


def one_at_a_time() -> None:
    """Let hosts have one task together, so that a search decides as with one worker."""
    from lepton_automl.search.executors.hosts import RemoteExecutor

    free = RemoteExecutor.free.fget
    assert free is not None
    RemoteExecutor.free = property(  # type: ignore[assignment,method-assign]
        lambda self: min(free(self), 1 - len(self.busy))
    )


def short_patience(silence: float) -> None:
    """Let hosts that are cut off end soon, and try lost hosts again soon.

    Parameters
    ----------
    silence : float
        Seconds without a word of the coordinator after which a host ends.
    """
    from lepton_automl.search.executors import host_connection
    from lepton_automl.search.workers import channel

    faulthandler.register(signal.SIGUSR1)  # Shows where a command hangs.
    channel.SILENCE_SECONDS, channel.PING_SECONDS = silence, silence / 6
    host_connection.PING_SECONDS = silence / 6
    host_connection.FIRST_PAUSE_SECONDS, host_connection.LONGEST_PAUSE_SECONDS = 0.1, 0.5
