"""Print progress on stderr: live bars in a terminal, else one line a minute and stage."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from lepton_automl.cli.report.console import Output
from lepton_automl.cli.streams import write_line
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.interrupts import raise_on_interrupt
from lepton_automl.errors import ConfigError

_SECONDS_BETWEEN_LINES, _VERBOSE_SECONDS = 60.0, 10.0
"""Between two lines of progress of one stage, and with `--verbose`."""


@contextmanager
def screen(*, quiet: bool = False, verbose: bool = False) -> Iterator[Emit]:
    """Show events until the block ends.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    verbose : bool
        Show details and more lines of progress.

    Raises
    ------
    ConfigError
        If both are set.
    """
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other", fix="give one of them")
    if quiet:
        yield _started(silent)
    elif sys.stderr.isatty():
        with Live(verbose=verbose) as live:
            yield _started(live.show)
    else:
        yield _started(Lines(verbose=verbose).show)


def _started(emit: Emit) -> Emit:
    """`emit`, and from the first event on Ctrl-C raises: modules are loaded, work begins."""

    def show(event: Event) -> None:
        if threading.current_thread() is threading.main_thread():
            raise_on_interrupt()
        emit(event)

    return show


class Lines:
    """Plain lines for logs: every message, and the progress of each stage once a minute."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._interval = _VERBOSE_SECONDS if verbose else _SECONDS_BETWEEN_LINES
        self._start = time.monotonic()
        self._printed: dict[str, tuple[float, str]] = {}
        """By stage, when its last line of progress was printed, and its message."""

    def show(self, event: Event) -> None:
        """Print one event, unless it is a detail or the stage printed its progress recently."""
        if event.is_detail and not self._verbose:
            return
        now = time.monotonic()
        if event.done is not None:
            at, message = self._printed.get(event.stage, (-math.inf, ""))
            is_recent = event.done != event.total and now - at < self._interval
            if is_recent or message == event.message:
                return
            self._printed[event.stage] = (now, event.message)
        share = f" {share_done(event):4.0%}" if event.done is not None else ""
        clock = time.strftime("%M:%S", time.gmtime(now - self._start))
        write_line(f"{clock} {event.stage:<9}{share} {event.message}", sys.stderr)


class Live:
    """Live bars, one per stage, with messages above them."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._console = Output(sys.stderr)
        self._progress = Progress(
            TextColumn("{task.fields[stage]:<9}", style="bold", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Update the bar of a stage, or print a message above the bars."""
        if event.is_detail and not self._verbose:
            return
        if event.done is None:
            self._console.print(Text.assemble((f"{event.stage:<9} ", "bold"), event.message))
            return
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._progress.add_task("", total=1.0, stage=event.stage)
        self._progress.update(
            self._tasks[event.stage],  # type: ignore[arg-type]
            completed=share_done(event),
            description=event.message,
        )


def share_done(event: Event) -> float:
    """How much of the whole is done, 0 to 1."""
    return min(1.0, (event.done or 0.0) / event.total) if event.total else 0.0
