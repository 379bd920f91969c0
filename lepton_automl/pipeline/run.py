"""Run search, compress, export and verify in order, into one resumable run folder.

The place to start reading; in `search`, `training` and `compress` it is `loop.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_automl.artifact import manifest, signature
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.config import RunConfig
from lepton_automl.core.events import Emit, silent
from lepton_automl.core.units import duration
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import RunContext, open_run
from lepton_automl.pipeline.export import has_stated_formats, written_outcome
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.runs.ledger import EventKind
from lepton_automl.runs.time_budget import continuing_budget
from lepton_automl.search import observers
from lepton_automl.search.request import SearchResult

_OVERRUN = 1.05
"""A run that takes so many times its budget says so."""


def run(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """Search, compress, export and verify.

    The same call resumes a run that was stopped; a finished run returns its outcome at once.

    Raises
    ------
    LeptonError
        If the data, an option or the machine is at fault; its `fix` says what to do.
    """
    with open_run(config, emit) as context:
        finished = _finished_outcome(context)
        if finished is not None:
            # Observers that missed events of a finished run receive them now.
            with observers.notified(config, context.folder, context.ledger, context.emit):
                return finished
        search_result = stages.search(context, stages.stage_budget(context))
        with stages.naming_best_net_on_interrupt(context):
            stages.compress(
                context,
                search_result.best,
                search_result.recipe,
                stages.compression_end(context),
                prunes=config.goal.prefers_cheaper,
            )
            outcome = stages.export_and_verify(context)
        _record_finished(context, outcome)
        _report_overrun(context)
        return dataclasses.replace(outcome, search_result=search_result)


def search(config: RunConfig, *, emit: Emit = silent) -> SearchResult:
    """Search only; the winner is saved in `models/best`.

    Raises
    ------
    LeptonError
        If the data, an option or the machine is at fault; its `fix` says what to do.
    """
    with open_run(config, emit) as context:
        return stages.search(context)


def compress(config: RunConfig, *, emit: Emit = silent) -> CompressionResult:
    """Prune, recover and quantize the winner of a search.

    Raises
    ------
    DataError
        If the run has no winner yet.
    """
    with open_run(config, emit) as context:
        best, recipe = stages.winner(context)
        return stages.compress(context, best, recipe, context.command_end)


def export(config: RunConfig, *, sign: Path | None = None, emit: Emit = silent) -> Outcome:
    """Write the artifact of a compressed run, verify it, and sign it with a key if one is given.

    Raises
    ------
    DataError
        If the run was not compressed yet.
    ConfigError
        If the key cannot be used.
    """
    if sign is not None:
        signature.check_key(sign)
    with open_run(config, emit) as context:
        outcome = stages.export_and_verify(context)
        if sign is not None:
            path = signature.sign(outcome.artifact, sign)
            context.report("export", f"signed with {sign}: {path}")
        return outcome


def _finished_outcome(context: RunContext) -> Outcome | None:
    """The outcome of an earlier call, unless this one has more trials or time than was used."""
    folder, config = context.folder.artifact, context.config
    if not manifest.is_complete(folder) or not has_stated_formats(config, folder):
        return None
    earlier = list(context.ledger.all(EventKind.FINISHED).values())
    if not earlier or (config.trials or 0) > (earlier[-1]["trials"] or 0):
        return None
    budget = config.seconds_in_all or 0.0
    used = context.ledger.alive_seconds() - context.ledger.session_seconds()
    if budget > max(used, earlier[-1]["budget_seconds"] or 0.0):
        return None
    context.report("run", f"already finished: {_continues(config, used)}")
    return written_outcome(folder)


def _report_overrun(context: RunContext) -> None:
    budget, used = context.config.seconds_in_all, context.ledger.alive_seconds()
    if budget is not None and used > _OVERRUN * budget:
        # How much more it needs is said with the search time, where that was short.
        took = f"it took {duration(used)}, longer than --budget {duration(budget)}"
        context.report("run", took)


def _continues(config: RunConfig, used: float) -> str:
    """How long a run took, and which options continue it."""
    budget, options = config.seconds_in_all, []
    if budget is not None:
        options.append(f"--budget {continuing_budget(max(used, budget))}")
    if config.trials is not None:
        options.append("more --trials")
    of_budget = "" if budget is None else f" of --budget {duration(budget)}"
    return f"it took {duration(used)}{of_budget}; {' or '.join(options)} continues it"


def _record_finished(context: RunContext, outcome: Outcome) -> None:
    number = len(context.ledger.all(EventKind.FINISHED))
    context.ledger.record(
        EventKind.FINISHED,
        str(number),
        {
            "trials": context.config.trials,
            "budget_seconds": context.config.seconds_in_all,
            "verdict": outcome.verdict.status,
        },
    )
