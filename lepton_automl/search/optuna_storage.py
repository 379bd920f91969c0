"""Copy the trials of a run into an Optuna storage, for dashboards."""

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
from lepton_automl.search.trials import RejectedProposal, RungResult, Trial

_KEY, _NUMBER, _ROLE = "lepton_key", "lepton_number", "lepton_role"
"""User attributes: a unique key, the number of our trial, `trial`, `rejected` or `final`."""


@dataclass
class StoredTrial:
    """A trial of the study, as far as it is written."""

    trial_id: int
    is_open: bool
    steps: dict[int, float] = field(default_factory=dict)


class StorageWriter:
    """Observer that writes the events of a run into an Optuna study, each once.

    A trial is RUNNING while it may be promoted, with its accuracy after each rung as an
    intermediate value at the step of its epochs. It is COMPLETE after the last rung, or with the
    accuracy of its last one when the search ends. FAIL: its training failed. PRUNED: rejected
    before any training; its constraints say by how much. A search that is continued after its end
    may train a COMPLETE trial further; the trial of that rung is a new one with the same
    `lepton_number`. A final training is a trial of its own.

    Parameters
    ----------
    storage : BaseStorage
        The storage; trials of earlier sessions in it are completed.
    study : str
        Name of the study; created where missing.
    objectives : mapping
        The objectives by name.
    limits : Limits
        Limits on costs become constraints: cost / limit - 1, at most 0 within the limit.
    """

    name = "the copy in the Optuna storage"
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
        self._trials: dict[int, Trial] = {}
        self._open_trials: dict[int, StoredTrial] = {}

    def observe(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Write one event; one that was written before changes nothing."""
        if kind == EventKind.TRIAL:
            self._enter(Trial.from_event(dict(value)))
        elif kind == EventKind.RUNG:
            self._add_result(RungResult.from_event(TrainingKey.parse(key), dict(value)))
        elif kind == EventKind.WINNER:
            self._storage.set_study_user_attr(self._study_id, "lepton_winner", value["number"])
            for number in list(self._open_trials):
                self._finish(number)

    def close(self) -> None:
        """Do nothing: every event is written as it is observed."""

    def _enter(self, trial: Trial) -> None:
        number = trial.number
        self._trials[number] = trial
        rejected = [one for one in trial.rejected if one.violation]  # The others were known.
        for index, rejection in enumerate(rejected):
            key = f"{number}-rejected-{index}"
            about = {_KEY: key, _NUMBER: number, _ROLE: "rejected"}
            self._stored(key, _frozen(rejection, TrialState.PRUNED, about, rejection.violation))
        self._begin(number, str(number))

    def _begin(self, number: int, key: str) -> None:
        self._open_trials[number] = self._stored(key, self._trial(number, key, TrialState.RUNNING))

    def _stored(self, key: str, trial: FrozenTrial) -> StoredTrial:
        """The stored trial of a key; it is written if it is missing."""
        if key not in self._known:
            trial_id = self._storage.create_new_trial(self._study_id, trial)
            is_open = not trial.state.is_finished()
            self._known[key] = StoredTrial(trial_id, is_open, dict(trial.intermediate_values))
        return self._known[key]

    def _add_result(self, result: RungResult) -> None:
        number = result.key.trial
        if result.key.stage is Stage.FINAL:
            key = str(result.key)
            self._stored(key, self._last_training(number, key, result))
        elif result.failed:
            self._finish(number)
        else:
            self._report(number, result)

    def _report(self, number: int, result: RungResult) -> None:
        stored = self._open_trials[number]
        if result.epochs not in stored.steps and not stored.is_open:
            # A longer search continues it: Optuna does not change a finished trial.
            self._begin(number, str(result.key))
            stored = self._open_trials[number]
        if result.epochs not in stored.steps:
            self._storage.set_trial_intermediate_value(
                stored.trial_id, result.epochs, result.accuracy
            )
            stored.steps[result.epochs] = result.accuracy
        if result.key.round >= RUNGS - 1:
            self._finish(number)

    def _finish(self, number: int) -> None:
        """Set a trial to COMPLETE with its last accuracy, or to FAIL without one."""
        stored = self._open_trials[number]
        if not stored.is_open:
            return
        stored.is_open = False
        if stored.steps:
            values = self._values(number, stored.steps[max(stored.steps)])
            self._storage.set_trial_state_values(stored.trial_id, TrialState.COMPLETE, values)
        else:
            self._storage.set_trial_state_values(stored.trial_id, TrialState.FAIL)

    def _last_training(self, number: int, key: str, result: RungResult) -> FrozenTrial:
        if result.failed:
            return self._trial(number, key, TrialState.FAIL, role="final")
        values = self._values(number, result.accuracy)
        steps = {result.epochs: result.accuracy}
        return self._trial(number, key, TrialState.COMPLETE, "final", values, steps)

    def _trial(
        self,
        number: int,
        key: str,
        state: TrialState,
        role: str = "trial",
        values: list[float] | None = None,
        steps: dict[int, float] | None = None,
    ) -> FrozenTrial:
        trial = self._trials[number]
        known = {spec.cost: spec.measured(trial.cost) for spec in LIMITS.values() if spec.cost}
        costs = {name: cost for name, cost in known.items() if cost is not None}
        about = {_KEY: key, _NUMBER: number, _ROLE: role} | costs
        constraints = self._constraints(trial)
        return _frozen(trial, state, about, constraints, values=values, steps=steps)

    def _constraints(self, trial: Trial) -> dict[str, float]:
        found = {}
        for limit, stated in self._limits.stated.items():
            cost = LIMITS[limit].measured(trial.cost)
            if cost is not None:
                found[limit] = cost / stated - 1
        return found

    def _values(self, number: int, accuracy: float) -> list[float]:
        cost = self._trials[number].cost
        return [float(o.value(accuracy, cost)) for o in self._objectives.values()]

    def _written(self) -> dict[str, StoredTrial]:
        """Read the trials that earlier sessions have written."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return {
            trial.user_attrs[_KEY]: StoredTrial(
                trial._trial_id, not trial.state.is_finished(), dict(trial.intermediate_values)
            )
            for trial in trials
            if _KEY in trial.user_attrs
        }


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage: a database URL such as `sqlite:///x.db`, or a journal file.

    Raises
    ------
    ConfigError
        If it is not a URL of a database.
    MachineError
        If the database or its driver is not there.
    """
    fix = "give an existing database, such as sqlite:///trials.db, or a file such as trials.log"
    try:
        if "://" not in url:
            return JournalStorage(JournalFileBackend(url))
        return get_storage(url)
    except ArgumentError as error:  # Its message may hold a password.
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
    point: Trial | RejectedProposal,
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
        # Optuna 5 has names; optuna-dashboard up to 0.21 reads only the older list.
        system_attrs={"constraints": list(constraints.values())} if constraints else None,
    )
