"""Mirror: a run's trials in an Optuna storage, for dashboards; nothing is ever read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from lepton_automl.config import LIMITS, Limits
from lepton_automl.errors import ConfigError, MachineError, first_line
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.objectives import Objective
from lepton_automl.search.rungs import RUNGS
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Rejection, RungResult, Trial

KEY, NUMBER, ROLE = "lepton_key", "lepton_number", "lepton_role"
"""User attributes: what the trial stands for, its candidate, `candidate`, `refused` or `final`."""


@dataclass
class Line:
    """One trial of the study."""

    trial_id: int
    is_open: bool
    steps: dict[int, float] = field(default_factory=dict)


class Mirror:
    """Writes a run's events into an Optuna study, each once, however often it is told of them.

    A candidate is RUNNING while it may go on to its next rung, its accuracy after each rung an
    intermediate value at the step of its epochs. It is COMPLETE after the last rung, or with the
    accuracy of its last one when the search ends. FAIL: it could not be trained. PRUNED: rejected
    before any training; its constraints say by how much. A search that is continued after its end
    may train a COMPLETE candidate further; the trial of that rung is a new one with the same
    `lepton_number`. A final training is a trial of its own.

    Parameters
    ----------
    storage : BaseStorage
        Where to; what another session wrote there is completed.
    study : str
        Name of the study; made where missing.
    objectives : mapping
        Directions and values, by name.
    limits : Limits
        Those on costs become constraints: cost / limit - 1, at most 0 where it is kept.
    """

    name = "the mirror in the Optuna storage"
    failures: tuple[type[Exception], ...] = (
        *(OptunaError, SQLAlchemyError, OSError, RuntimeError, ValueError, LookupError),
    )

    def __init__(
        self,
        storage: BaseStorage,
        study: str,
        objectives: Mapping[str, Objective],
        limits: Limits,
    ) -> None:
        self._storage, self._objectives, self._limits = storage, objectives, limits
        self._study_id = _opened(storage, study, objectives)
        self._known = self._written()
        self._candidates: dict[int, Trial] = {}
        self._lines: dict[int, Line] = {}

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Write one event; those that were written before change nothing."""
        if kind == EventKind.TRIAL:
            self._enter(Trial.from_event(dict(value)))
        elif kind == EventKind.RUNG:
            self._score(RungResult.from_event(TrainingKey.parse(key), dict(value)))
        elif kind == EventKind.WINNER:
            self._storage.set_study_user_attr(self._study_id, "lepton_winner", value["number"])
            for number in list(self._lines):
                self._settle(number)

    def close(self) -> None:
        """Do nothing: every event is written as it is observed."""

    def _enter(self, candidate: Trial) -> None:
        number = candidate.number
        self._candidates[number] = candidate
        rejected = [one for one in candidate.rejected if one.violation]  # The others were known.
        for index, refusal in enumerate(rejected):
            key = f"{number}-refused-{index}"
            about = {KEY: key, NUMBER: number, ROLE: "refused"}
            self._line(key, _frozen(refusal, TrialState.PRUNED, about, refusal.violation))
        self._begin(number, str(number))

    def _begin(self, number: int, key: str) -> None:
        self._lines[number] = self._line(key, self._trial(number, key, TrialState.RUNNING))

    def _line(self, key: str, trial: FrozenTrial) -> Line:
        """The trial of that key, written unless it is there."""
        if key not in self._known:
            trial_id = self._storage.create_new_trial(self._study_id, trial)
            is_open = not trial.state.is_finished()
            self._known[key] = Line(trial_id, is_open, dict(trial.intermediate_values))
        return self._known[key]

    def _score(self, score: RungResult) -> None:
        number = score.key.trial
        if score.key.stage is Stage.FINAL:
            key = str(score.key)
            self._line(key, self._last_training(number, key, score))
        elif score.failed:
            self._settle(number)
        else:
            self._report(number, score)

    def _report(self, number: int, score: RungResult) -> None:
        line = self._lines[number]
        if score.epochs not in line.steps and not line.is_open:
            # A longer search continues it: Optuna does not change a finished trial.
            self._begin(number, str(score.key))
            line = self._lines[number]
        if score.epochs not in line.steps:
            self._storage.set_trial_intermediate_value(line.trial_id, score.epochs, score.accuracy)
            line.steps[score.epochs] = score.accuracy
        if score.key.round >= RUNGS - 1:
            self._settle(number)

    def _settle(self, number: int) -> None:
        """The candidate's trial is complete with the last accuracy it had; FAIL without any."""
        line = self._lines[number]
        if not line.is_open:
            return
        line.is_open = False
        if line.steps:
            values = self._values(number, line.steps[max(line.steps)])
            self._storage.set_trial_state_values(line.trial_id, TrialState.COMPLETE, values)
        else:
            self._storage.set_trial_state_values(line.trial_id, TrialState.FAIL)

    def _last_training(self, number: int, key: str, score: RungResult) -> FrozenTrial:
        if score.failed:
            return self._trial(number, key, TrialState.FAIL, role="final")
        values = self._values(number, score.accuracy)
        steps = {score.epochs: score.accuracy}
        return self._trial(number, key, TrialState.COMPLETE, "final", values, steps)

    def _trial(
        self,
        number: int,
        key: str,
        state: TrialState,
        role: str = "candidate",
        values: list[float] | None = None,
        steps: dict[int, float] | None = None,
    ) -> FrozenTrial:
        candidate = self._candidates[number]
        known = {spec.cost: spec.measured(candidate.cost) for spec in LIMITS.values() if spec.cost}
        costs = {name: cost for name, cost in known.items() if cost is not None}
        about = {KEY: key, NUMBER: number, ROLE: role} | costs
        constraints = self._constraints(candidate)
        return _frozen(candidate, state, about, constraints, values=values, steps=steps)

    def _constraints(self, candidate: Trial) -> dict[str, float]:
        found = {}
        for limit, stated in self._limits.stated.items():
            cost = LIMITS[limit].measured(candidate.cost)
            if cost is not None:
                found[limit] = cost / stated - 1
        return found

    def _values(self, number: int, accuracy: float) -> list[float]:
        cost = self._candidates[number].cost
        return [float(o.value(accuracy, cost)) for o in self._objectives.values()]

    def _written(self) -> dict[str, Line]:
        """What earlier sessions have written."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return {
            trial.user_attrs[KEY]: Line(
                trial._trial_id, not trial.state.is_finished(), dict(trial.intermediate_values)
            )
            for trial in trials
            if KEY in trial.user_attrs
        }


def open_storage(url: str) -> BaseStorage:
    """An Optuna storage: a database URL such as `sqlite:///x.db`, or the path of a journal file.

    Raises
    ------
    ConfigError
        If it is no URL of a database.
    MachineError
        If the database or its driver is not there.
    """
    fix = "give a database that is there, such as sqlite:///trials.db, or a file such as trials.log"
    try:
        if "://" not in url:
            return JournalStorage(JournalFileBackend(url))
        return get_storage(url)
    except ArgumentError as error:  # Its words may hold a password.
        raise ConfigError("--optuna-storage is not the URL of a database", fix=fix) from error
    except ImportError as error:
        raise MachineError(
            f"--optuna-storage {shown(url)} needs a driver that is not installed",
            fix="install it, for instance with: pip install psycopg[binary], or mysqlclient",
        ) from error
    except (OptunaError, SQLAlchemyError, OSError) as error:
        reason = first_line(error)
        raise MachineError(
            f"--optuna-storage {shown(url)} cannot be used: {reason}", fix=fix
        ) from error


def shown(url: str) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string() if "://" in url else url


def _opened(storage: BaseStorage, name: str, objectives: Mapping[str, Objective]) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [objective.direction for objective in objectives.values()]
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, load_if_exists=True
    )
    # What `study.set_metric_names` does, less its warning that it is experimental.
    storage.set_study_system_attr(study._study_id, "study:metric_names", list(objectives))
    return study._study_id


def _frozen(
    point: Trial | Rejection,
    state: TrialState,
    about: dict[str, Any],
    constraints: Mapping[str, float],
    *,
    values: list[float] | None = None,
    steps: dict[int, float] | None = None,
) -> FrozenTrial:
    return create_trial(
        state=state,
        params=point.params,
        distributions={k: json_to_distribution(d) for k, d in point.distributions.items()},
        values=values,
        intermediate_values=steps,
        user_attrs=about | {f"constraint {k}": round(v, 4) for k, v in constraints.items()},
        constraints=dict(constraints),
        # The names are Optuna 5's; optuna-dashboard up to 0.21 reads the older list alone.
        system_attrs={"constraints": list(constraints.values())} if constraints else None,
    )
