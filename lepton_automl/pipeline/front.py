"""The Pareto front of a run, read from its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lepton_automl.artifact.provenance import FinalistResult
from lepton_automl.config import Goal, Prefer
from lepton_automl.core import units as w
from lepton_automl.core.field_types import check_finite, check_types
from lepton_automl.errors import DataError
from lepton_automl.pipeline import charts
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.search import progress
from lepton_automl.search.finals.results import last_finalist_results
from lepton_automl.search.finals.selection import Option, Selection, choose
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.pareto import series
from lepton_automl.search.request import TrialRow
from lepton_automl.search.trials import Trials, read_trials

PICK = "pick"
"""Kind of ledger events: name of a pick -> its trial number and epochs."""


@dataclass(frozen=True, eq=False)
class Front:
    """The trials of a run, its Pareto front and its winner."""

    rows: tuple[TrialRow, ...]
    """All trials, by number."""
    front: tuple[TrialRow, ...]
    """The Pareto front, the most accurate first."""
    number: int
    """Number of the winner."""
    reason: str
    """Reason of the choice, in words."""
    finalists: tuple[FinalistResult, ...] = ()
    """Finalists after their final trainings."""
    hypervolume: tuple[tuple[float, float], ...] = ()
    """(seconds of the run, hypervolume of the front) after every rung."""
    is_balanced: bool = False
    """Accuracies are balanced: the mean over classes."""


def read_front(folder: RunFolder) -> Front:
    """Read the front of a run, also while it is running.

    Raises
    ------
    DataError
        If it has not trained anything yet.
    """
    with folder.read_ledger() as ledger:
        return front_of(ledger, folder.definition())


def front_of(ledger: LedgerView, definition: Definition) -> Front:
    """The front of the trials in a ledger.

    Raises
    ------
    DataError
        If nothing was trained yet.
    """
    trials = read_trials(ledger)
    choice, finalists = _choice(ledger, trials, definition), last_finalist_results(ledger)
    volumes = tuple(series(ledger))
    for each in finalists:
        check_types(each)
    for value in (number for pair in volumes for number in pair):
        check_finite(value, "hypervolume")
    objectives = [load_objective(name) for name in definition.objectives]
    return Front(
        rows=tuple(progress.row_of(trials, number) for number in sorted(trials)),
        front=progress.front_of(trials, objectives),
        number=choice.number,
        reason=choice.reason,
        finalists=finalists,
        hypervolume=volumes,
        is_balanced=definition.balanced,
    )


def _choice(ledger: LedgerView, trials: Trials, definition: Definition) -> Selection:
    """The winner that was recorded last, or the best trial now."""
    named = list(ledger.all(EventKind.WINNER).values())
    if named:
        number, reason = named[-1]["number"], named[-1]["reason"]
        if number not in trials or not isinstance(reason, str):
            raise ValueError(f"the winner {number!r:.60} is not a trial, or its reason not text")
        return Selection(number, reason)
    options = [
        Option(n, trials.best_result(n).correct, trials[n].cost, strata=trials.strata)
        for n in trials.trained()
    ]
    if not options:
        raise _untrained(ledger.path.parent)
    prefer: Prefer = "latency" if definition.prefer == "latency" else "size"
    return choose(options, Goal(definition.limits, prefer, definition.objectives))


def _untrained(folder: Path) -> DataError:
    return DataError(
        f"{folder} has no trained trial yet", fix="run `lepton search` into this folder first"
    )


def draw(folder: RunFolder, ledger: LedgerView) -> None:
    """Draw the trials, front and picks of a run into its `front.svg`.

    Raises
    ------
    DataError
        If it has not trained anything yet.
    MachineError
        If the file cannot be written.
    """
    front = front_of(ledger, folder.definition())
    picked = {event["number"] for event in ledger.all(EventKind.PICK).values()}
    measure = w.accuracy_title(front.is_balanced)
    charts.write_front_chart(folder.path, front.rows, front.front, front.number, picked, measure)
