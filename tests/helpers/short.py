"""Shorter measurements and trainings: no test depends on how exact a latency is or on accuracy.

The command line is built once, as in a process of its own. All this holds in the process of tests
and in programs that are forked, not in those that are started.
"""

from __future__ import annotations

import functools

import typer.main

from lepton_automl.artifact import measurements
from lepton_automl.cli.app import app
from lepton_automl.compress import recovery
from lepton_automl.compress.external.graph_process import LimitedStopwatch
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.models.formats import c


def shorten() -> None:
    """Time files for milliseconds, train few batches after a step, compile without optimisation."""
    measurements.SECONDS = 0.003
    recovery.MIN_BATCHES = 12
    c._FAST = (("-O0",),)
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)
    for kind in (Stopwatch, LimitedStopwatch):
        kind.quiet_reference_ms.__kwdefaults__ = {"rounds": 3, "seconds": 0.001}
