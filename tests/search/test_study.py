from __future__ import annotations

import itertools
import json
import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ArchError, ConfigError
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import load
from lepton_automl.search.sampler.candidate_pool import CandidateEstimate, even_draw
from lepton_automl.search.scheduler import Scheduler
from lepton_automl.search.seeds import seed_of
from lepton_automl.search.space.parameters import Choice, Range
from lepton_automl.search.study import (
    BUILT_IN,
    REPRODUCIBLE,
    Outcome,
    SearchStudy,
    distributions,
    make_sampler,
    observations,
    resumes_exactly,
)
from lepton_automl.search.trials import RejectedProposal, Trial
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch

ARCH = random_arch(0, input=(8, 8, 1), classes=3)
PARAMETERS = {
    "kind": Choice(("good", "odd")),
    "only": Range(0.0, 1.0, 0.1),
    "width": Range(8, 64, 8),
    "lr": Choice((0.01, 0.03, 0.1)),
}
ASKED = 4
"""Proposals of the sampler for one trial; after them, points are drawn uniformly, as in a run."""
EXACT = [("lepton", 1), ("lepton", 12), ("tpe", 3), ("random", 5), ("gp", 3)]
"""Samplers that promise to go on exactly, and trials after which they are interrupted."""


def draw(trial: Any) -> tuple[Arch, Recipe]:
    if trial.suggest_categorical("kind", ["good", "odd"]) == "odd":
        trial.suggest_float("only", 0.0, 1.0, step=0.1)
    if trial.suggest_int("width", 8, 64, step=8) == 64:
        raise ArchError("does not fit", fix="none")
    return ARCH, Recipe(lr=trial.suggest_categorical("lr", (0.01, 0.03, 0.1)))


def estimate(params: Any) -> CandidateEstimate | None:
    if params["width"] == 64:
        return None
    used = {k: v for k, v in params.items() if k != "only" or params["kind"] == "odd"}
    return CandidateEstimate(used, {1: 100 * params["width"]})


def a_study(sampler: str = "lepton", seed: int = 0) -> SearchStudy:
    objectives = [load("accuracy"), load("size_bytes")]
    return SearchStudy(draw, PARAMETERS, objectives, estimate, sampler=sampler, seed=seed)


def cost(params: dict[str, Any]) -> Cost:
    size = 100 * params["width"]
    return Cost(size, size, size, size, size)


def outcome(number: int, params: dict[str, Any], rung: int = 0) -> Outcome:
    """Every fifth trial fails at its first rung."""
    good = 0.5 + params["width"] / 200 - abs(params["lr"] - 0.03) + 0.05 * rung
    return 2 - rung, None if number % 5 == 4 else good, 1000


class Play:
    """A short search: what is rejected, known, trained for one rung or for all."""

    def __init__(self, study: SearchStudy) -> None:
        self.study = study
        self.trained: list[tuple[Trial, list[Outcome]]] = []

    def step(self, number: int) -> dict[str, Any]:
        rejected: list[RejectedProposal] = []
        known = [candidate.params for candidate, _ in self.trained]
        for attempt in itertools.count():
            seed = seed_of(number, attempt)
            given = None if attempt < ASKED else even_draw(self.study.space, seed)
            point = self.study.ask(given)
            if point.arch is None or point.recipe is None:
                rejected.append(self.study.reject(point, {"arch": 1.0}))
            elif point.params["width"] == 8:
                rejected.append(self.study.reject(point, {"max_size_bytes": 0.5}))
            elif point.params in known:
                rejected.append(self.study.drop(point))
            else:
                break
        self.study.accept(number, point)
        nets = point.arch.to_json(), point.recipe.to_json()
        about = (point.params, point.distributions, *nets, cost(point.params))
        candidate = Trial(number, *about, tuple(rejected))
        outcomes = []
        for rung in range(3 if number % 4 == 0 and number % 5 != 4 else 1):
            self.study.begin(number, 2 - rung)
            outcomes.append(outcome(number, point.params, rung))
            self.study.record(number, outcomes[-1], candidate.cost)
        self.trained.append((candidate, outcomes))
        return point.params


@pytest.mark.parametrize(("sampler", "broken_at"), EXACT)
def test_a_rebuilt_study_proposes_what_the_first_would_have(sampler: str, broken_at: int) -> None:
    whole, begun = Play(a_study(sampler)), Play(a_study(sampler))
    wanted = [whole.step(number) for number in range(broken_at + 4)]
    for number in range(broken_at):
        begun.step(number)
    again = Play(a_study(sampler))
    for candidate, outcomes in begun.trained:
        read = Trial.from_event(json.loads(json.dumps(candidate.to_event())))
        again.study.restore(read, outcomes)
        again.trained.append((candidate, outcomes))
    assert [again.step(number) for number in range(broken_at, broken_at + 4)] == wanted[broken_at:]


@pytest.mark.parametrize("sampler", BUILT_IN)
def test_every_sampler_proposes_through_the_same_study(sampler: str) -> None:
    play = Play(a_study(sampler))
    points = [str(play.step(number)) for number in range(11)]
    assert len(set(points)) == 11
    trials = play.study._study.get_trials()
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    assert all(t.constraints for t in pruned)
    assert sum("training" in t.constraints for t in pruned) == 2


def test_other_samplers_are_given_the_first_rung_and_the_logarithm_of_costs() -> None:
    play = Play(a_study("random"))
    params = play.step(0)
    (trial,) = (t for t in play.study._study.get_trials() if t.state == TrialState.COMPLETE)
    assert trial.values == [outcome(0, params)[1], math.log2(100 * params["width"])]


def test_our_sampler_sees_every_rung_and_a_trial_runs_until_its_last() -> None:
    play = Play(a_study())
    first, second = play.step(0), play.step(1)
    done, running = (
        t
        for t in play.study._study.get_trials()
        if t.state in (TrialState.COMPLETE, TrialState.RUNNING)
    )
    assert (done.params, running.params) == (first, second)
    assert [o.rungs_left for o in observations(done)] == [2, 1, 0]
    values = [o.value for o in observations(done)]
    assert values == sorted(values)  # type: ignore[type-var]
    assert done.values[0] == outcome(0, first, 2)[1]
    assert running.state == TrialState.RUNNING


def test_the_observed_value_is_the_logarithm_of_the_error_with_its_sampling_variance() -> None:
    """Against draws of the share itself, half of whose variance counts."""
    import numpy as np

    results = {"lepton_results": [[0, 0.9, 2000]]}
    (one,) = observations(optuna.trial.create_trial(value=0.0, user_attrs=results))
    shares = np.random.default_rng(0).binomial(2000, 0.9, 20_000) / 2000
    logs = -np.log(1 - shares)
    assert one.value == pytest.approx(-math.log(0.1), abs=0.01)
    assert one.variance == pytest.approx(0.5 * logs.var(), rel=0.05)


def test_a_trial_that_was_interrupted_gets_its_result_after_the_restart() -> None:
    play = Play(a_study("tpe"))
    play.step(0)
    candidate, outcomes = play.trained[0]
    rebuilt = a_study("tpe")
    rebuilt.restore(candidate, [])
    rebuilt.record(0, outcomes[0], candidate.cost)
    told = [
        [(t.params, t.values) for t in study._study.get_trials() if t.values]
        for study in (play.study, rebuilt)
    ]
    assert told[0] == told[1]


def test_given_values_are_enqueued_and_what_they_leave_open_is_proposed() -> None:
    study = a_study()
    point = study.ask({"kind": "odd", "width": 16})
    assert point.params["width"] == 16
    assert {"only", "lr"} < set(point.params)
    assert study.ask({"kind": "good", "width": 64, "lr": 0.01}).arch is None


def test_the_seed_decides_the_points() -> None:
    drawn = [Play(a_study(seed=seed)).step(3) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_trials_of_another_run_count_but_have_no_rank() -> None:
    play = Play(a_study())
    for number in range(4):
        play.step(number)
    study = a_study()
    for candidate, outcomes in play.trained:
        study.restore(candidate, outcomes, is_ours=False)
    values, best = study.rank()
    assert values == {}
    assert best is not None


def test_a_proposal_is_made_as_every_parameter_is_suggested() -> None:
    """Else Optuna would call the two incompatible."""
    study = optuna.create_study()
    study.enqueue_trial({"kind": "odd", "only": 0.5, "width": 16, "lr": 0.03})
    trial = study.ask()
    draw(trial)
    assert distributions(PARAMETERS) == trial.distributions


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpee", "'tpee' is not a sampler"),
        ("no_such_module:Sampler", "cannot be imported"),
        ("optuna.samplers:TPE", "has no class 'TPE'"),
        ("optuna.samplers:GridSampler", "cannot be constructed"),
        ("math:pi", "has no class 'pi'"),
    ],
)
def test_a_sampler_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sampler(name, 0)


def test_every_sampler_that_is_constructed_anew_promises_to_go_on_exactly() -> None:
    assert {name for name, _ in EXACT} == {"lepton", *REPRODUCIBLE}
    assert all(resumes_exactly(name) for name, _ in EXACT)


def test_a_sampler_of_another_package_is_found_and_seeded() -> None:
    made = make_sampler("optuna.samplers:TPESampler", 7)
    assert isinstance(made, optuna.samplers.TPESampler)
    assert not resumes_exactly("optuna.samplers:TPESampler")
    assert resumes_exactly("lepton")


def test_with_another_sampler_promotion_comes_before_a_new_trial() -> None:
    scheduler = Scheduler(a_study("random"))
    promote = scheduler.next_action([3, 1], may_propose=True)
    assert promote is not None
    assert promote.promote == 3
    propose = scheduler.next_action([], may_propose=True)
    assert propose is not None
    assert propose.promote is None
    assert scheduler.next_action([], may_propose=False) is None
