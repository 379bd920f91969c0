from __future__ import annotations

import ast
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from lepton_automl.search import sampler, seeds
from lepton_automl.search.sampler import LeptonSampler, Observation, trial_summaries
from lepton_automl.search.sampler.acquisition import budgets
from lepton_automl.search.sampler.candidate_pool import CandidateEstimate, identity_of
from lepton_automl.search.sampler.trial_summaries import TrialSummaries, TrialSummary

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's own requirements, with the model in use from the second trial on."""

    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: LeptonSampler(0, n_startup_trials=1)


@pytest.mark.slow  # Above, the first trial of each study is one before the model is used.
class TestConformanceAtStartup(TestConformance):
    """The same before the model is used."""

    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: LeptonSampler(0)


def test_it_knows_nothing_of_lepton() -> None:
    allowed = {"numpy", "optuna", "torch"}
    package = Path(str(sampler.__file__)).parent
    files = {f"{sampler.__name__}.{path.stem}": path for path in package.glob("*.py")}
    files[seeds.__name__] = Path(str(seeds.__file__))
    own = {*files, sampler.__name__}
    for path in files.values():
        tree = ast.parse(path.read_text())
        names = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        foreign = {name for name in names - own if name.split(".")[0] not in allowed}
        assert {name.split(".")[0] for name in foreign} <= set(sys.stdlib_module_names)


def objective(trial: optuna.Trial) -> float:
    """Best, 0, for kind b with depth 5 and lr 0.01; a and c only up to 0.3 away from it."""
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    loss = 0.2 * (math.log10(lr) + 2) ** 2
    if kind == "b":
        return loss + 0.1 * abs(trial.suggest_int("depth", 1, 8) - 5)
    if kind == "c":
        loss += (trial.suggest_float("width", 0.0, 1.0) - 0.3) ** 2
    return loss + 0.3


def optimized(make: Any, trials: int, **study: Any) -> optuna.Study:
    made = optuna.create_study(sampler=make, **study)
    made.optimize(objective, n_trials=trials)
    return made


def test_it_finds_the_best_of_a_conditional_space_sooner_than_random_search() -> None:
    ours = [optimized(LeptonSampler(seed), 40).best_value for seed in range(6)]
    others = [optimized(optuna.samplers.RandomSampler(seed), 40).best_value for seed in range(6)]
    assert np.median(ours) < 0.5 * np.median(others)


def test_maximizing_is_minimizing_the_opposite() -> None:
    study = optuna.create_study(direction="maximize", sampler=LeptonSampler(0))
    study.optimize(lambda trial: -objective(trial), n_trials=40)
    points = [trial.params for trial in optimized(LeptonSampler(0), 40).trials]
    assert [trial.params for trial in study.trials] == points


def test_a_study_that_is_loaded_again_proposes_what_it_would_have() -> None:
    whole = optimized(LeptonSampler(3), 30)
    for broken_at in (1, 12, 21):
        again = optuna.create_study(sampler=LeptonSampler(3))
        again.add_trials(whole.trials[:broken_at])
        again.optimize(objective, n_trials=30 - broken_at)
        assert [t.params for t in again.trials] == [t.params for t in whole.trials]


def test_the_seed_decides() -> None:
    first = [optimized(LeptonSampler(seed), 3).trials[2].params for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_learned_constraints_keep_proposals_feasible() -> None:
    """The objective pulls to x = 1; feasible is below 0.3."""

    def constrained(trial: optuna.Trial) -> float:
        x, y = (trial.suggest_float(name, 0.0, 1.0) for name in "xy")
        trial.set_constraint("x", x - 0.3)
        return -x - 0.1 * y

    study = optuna.create_study(sampler=LeptonSampler(0))
    study.optimize(constrained, n_trials=40)
    late = [trial.params["x"] for trial in study.trials[20:]]
    assert sum(x <= 0.3 for x in late) > 10
    assert study.best_trial.params["x"] > 0.2


def test_rejected_trials_teach_their_constraints() -> None:
    study = optuna.create_study(sampler=LeptonSampler(0))
    for _ in range(40):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_constraint("x", x - 0.3)
        if x > 0.3:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, -x)
    late = [trial.params["x"] for trial in study.trials[20:]]
    assert 0.2 < np.median(late) < 0.4


def test_several_objectives_spread_over_the_front() -> None:
    """Both ends of the front of (x, 1 - x) with a nuisance parameter that costs."""
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=LeptonSampler(0))

    def two(trial: optuna.Trial) -> tuple[float, float]:
        x, loss = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("loss", 0.0, 1.0)
        return x + loss, x - loss

    study.optimize(two, n_trials=50)
    front = study.best_trials
    assert min(t.params["x"] for t in front) < 0.2
    assert max(t.params["x"] for t in front) > 0.8
    late = [t.params["loss"] for t in study.trials[20:]]
    assert np.median(late) < 0.3


def test_known_costs_are_bounded_by_random_budgets() -> None:
    """Accuracy grows with the width: only with budgets is a small one looked for."""
    known: Any = lambda params: CandidateEstimate(params, {1: params["width"]})  # noqa: E731
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=LeptonSampler(0, estimate=known)
    )
    for _ in range(40):
        trial = study.ask()
        width = trial.suggest_int("width", 1, 256, log=True)
        quality = trial.suggest_float("quality", 0.0, 1.0)
        study.tell(trial, [math.log(width) + quality, width])
    late = [trial.params for trial in study.trials[20:]]
    assert {"small", "large"} == {"small" if p["width"] < 40 else "large" for p in late}
    assert np.median([p["quality"] for p in late]) > 0.7


def test_what_seems_infeasible_is_not_proposed_while_something_else_is_there() -> None:
    def known(params: Any) -> CandidateEstimate:
        return CandidateEstimate(params, {}, max(0.0, params["x"] - 0.5))

    study = optuna.create_study(sampler=LeptonSampler(0, estimate=known))
    study.ask().suggest_float("x", 0.0, 1.0)
    for _ in range(20):
        trial = study.ask()
        assert trial.suggest_float("x", 0.0, 1.0) <= 0.5
        study.tell(trial, trial.params["x"])


def test_running_trials_are_not_proposed_again() -> None:
    """A batch that is asked at once is spread: each counts with its expected result."""
    study = optuna.create_study(sampler=LeptonSampler(0))
    study.optimize(objective, n_trials=15)
    batch = [study.ask() for _ in range(6)]
    for trial in batch:
        objective(trial)
    assert len({str(trial.params) for trial in batch}) == 6
    assert len({round(math.log10(trial.params["lr"]), 1) for trial in batch}) > 1


def test_pruned_trials_count_by_their_last_intermediate_value() -> None:
    study = optuna.create_study(sampler=LeptonSampler(0))
    for _ in range(30):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.report(x + 0.5, 0)
        study.tell(trial, state=TrialState.PRUNED)
    assert np.median([t.params["x"] for t in study.trials[15:]]) < 0.25


def test_infinite_and_huge_values_do_not_spoil_the_model() -> None:
    def wild(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        return float("inf") if x > 0.9 else 1e12 * x if x > 0.8 else (x - 0.4) ** 2

    study = optuna.create_study(sampler=LeptonSampler(0))
    study.optimize(wild, n_trials=40)
    assert study.best_value < 1e-3


def test_a_finite_space_is_not_repeated_before_it_is_used_up() -> None:
    space = {"a": optuna.distributions.IntDistribution(0, 4)}
    study = optuna.create_study(sampler=LeptonSampler(0, search_space=space))
    study.optimize(lambda trial: float(trial.suggest_int("a", 0, 4)), n_trials=5)
    assert {trial.params["a"] for trial in study.trials} == set(range(5))
    study.optimize(lambda trial: float(trial.suggest_int("a", 0, 4)), n_trials=2)


def test_ranks_name_the_candidate_that_is_proposed_next() -> None:
    study = optimized(LeptonSampler(0), 20)
    assert isinstance(study.sampler, LeptonSampler)
    ranking = study.sampler.rank(study)
    assert set(ranking.trials) == set(range(20))
    values = [value for _, value in ranking.candidates]
    assert values == sorted(values, reverse=True)
    trial = study.ask()
    objective(trial)
    wanted = ranking.candidates[0][0].params
    assert {name: wanted[name] for name in trial.params} == trial.params


def observe(trial: FrozenTrial) -> list[Observation]:
    found = [Observation(2 - n, v) for n, v in enumerate(trial.user_attrs.get("rungs", ()))]
    running = trial.user_attrs.get("running")
    return found if running is None else [*found, Observation(running, None)]


def test_a_search_by_ranks_trains_the_best_point_to_the_end() -> None:
    """Promotion and proposal compete in one unit; an error of 1.4 per rung before the last."""

    def value(params: dict[str, Any], left: int) -> float:
        error = 0.3 * (8 / params["width"]) ** 0.3 * (1 + 5 * abs(params["lr"] - 0.1))
        return -math.log(error * 1.4**left)

    space = {
        "width": optuna.distributions.IntDistribution(8, 64, step=8),
        "lr": optuna.distributions.CategoricalDistribution((0.05, 0.1, 0.2)),
    }
    made = LeptonSampler(0, n_startup_trials=1, search_space=space, observe=observe)
    study = optuna.create_study(sampler=made, direction="maximize")
    trials: dict[int, optuna.Trial] = {}
    spent = 0
    while spent < 60:
        ranking = made.rank(study)
        open_ = {n: v for n, v in ranking.trials.items() if len(trials[n].user_attrs["rungs"]) < 3}
        best = max(open_, key=lambda n: open_[n], default=None)
        candidate = ranking.candidates[0][1] if ranking.candidates else -math.inf
        if best is None or candidate > open_[best]:
            trial = study.ask(space)
            trials[trial.number] = trial
            best = trial.number
        trial = trials[best]
        rungs = trial.user_attrs.get("rungs", [])
        trial.set_user_attr("rungs", [*rungs, value(trial.params, 2 - len(rungs))])
        spent += (1, 2, 6)[len(rungs)]
        if trial.params == {"width": 64, "lr": 0.1} and len(rungs) == 2:
            break
    assert spent < 60


SPACE = {
    "width": optuna.distributions.IntDistribution(8, 64, step=8),
    "lr": optuna.distributions.FloatDistribution(0.01, 1.0),
}


def with_running(count: int) -> tuple[LeptonSampler, optuna.Study]:
    """A study with four results and trainings that run."""
    made = LeptonSampler(0, n_startup_trials=1, search_space=SPACE, observe=observe)
    study = optuna.create_study(sampler=made, direction="maximize")
    for number in range(count + 4):
        given = {"width": 8 + 8 * (number % 8), "lr": 0.01 + number / (count + 4)}
        study.enqueue_trial(given)
        trial = study.ask(SPACE)
        if number < 4:
            trial.set_user_attr("rungs", [number / 4])
        else:
            trial.set_user_attr("running", 2)
    return made, study


@pytest.mark.parametrize(("running", "rankings"), [(27, 4), (64, 2), (96, 1)])
def test_many_running_trainings_share_rankings_few_do_not(
    running: int, rankings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, study = with_running(running)
    fits = []
    rank = LeptonSampler._rank

    def counted(self: LeptonSampler, *given: Any) -> Any:
        fits.append(1)
        return rank(self, *given)

    monkeypatch.setattr(LeptonSampler, "_rank", counted)
    proposed = []
    for _ in range(4):
        trial = study.ask(SPACE)
        trial.set_user_attr("running", 2)
        proposed.append(tuple(trial.params.values()))
    assert len(fits) == rankings
    known = {tuple(t.params.values()) for t in study.get_trials(deepcopy=False)}
    assert len(set(proposed)) == 4
    assert len(known) == running + 8  # No point twice.


def test_of_many_trials_the_best_of_each_rung_and_the_newest_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial_summaries, "MOST_TRIALS", 8)
    monkeypatch.setattr(trial_summaries, "MOST_OF_RUNG", 2)
    monkeypatch.setattr(trial_summaries, "MOST_NEW", 2)
    rows: list[tuple[Observation, ...]] = [(Observation(2, v),) for v in (0.9, 0.1, 0.8, 0.2, 0.3)]
    rows += [(Observation(2, 0.0), Observation(0, v)) for v in (0.5, 0.7, 0.4, 0.6)]
    rows += [(Observation(2, None),) for _ in range(3)]
    trials = [create_trial(value=0.0, user_attrs={"row": row}) for row in rows]

    def kept(trials: list[FrozenTrial]) -> list[int]:
        notes = TrialSummaries()
        notes.update(trials, lambda trial: TrialSummary(trial, True, trial.user_attrs["row"]))
        return [trials.index(note.trial) for note in notes.bounded()]

    assert kept(trials[:8]) == list(range(8))
    assert kept(trials) == [0, 2, 4, 6, 8, 10, 11]


def test_notes_that_follow_a_study_are_those_of_one_that_is_read_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trials come, train, are rejected and change, in any order."""
    monkeypatch.setattr(trial_summaries, "MOST_TRIALS", 8)
    monkeypatch.setattr(trial_summaries, "MOST_OF_RUNG", 3)
    monkeypatch.setattr(trial_summaries, "MOST_NEW", 4)
    chance = random.Random(0)

    def read(trial: FrozenTrial) -> TrialSummary:
        return TrialSummary(trial, bool(observe(trial)), tuple(observe(trial)))

    def summary(notes: TrialSummaries) -> Any:
        kept = [note.trial for note in notes.bounded()]
        points = [identity_of({"x": n}) for n in range(6)]
        return (
            *map(id, kept),
            notes.count,
            notes.running,
            notes.observations,
            *map(notes.has_tried, points),
        )

    notes, trials = TrialSummaries(), list[FrozenTrial | None]()
    for _ in range(300):
        attrs: dict[str, Any] = {}
        if chance.random() < 0.7:
            attrs["rungs"] = [chance.random() for _ in range(chance.randrange(4))]
        if chance.random() < 0.3:
            attrs["running"] = chance.randrange(3)
        values = {"x": chance.randrange(6)}
        space = {"x": optuna.distributions.IntDistribution(0, 5)}
        new = create_trial(value=0.0, params=values, distributions=space, user_attrs=attrs)
        if trials and chance.random() < 0.5:
            trials[chance.randrange(len(trials))] = None if chance.random() < 0.1 else new
        else:
            trials.append(new)
        notes.update(trials, read)
        anew = TrialSummaries()
        anew.update(trials, read)
        assert summary(notes) == summary(anew)


def test_a_change_that_says_nothing_new_needs_no_new_ranking() -> None:
    made, study = with_running(3)
    before = made.rank(study)
    trial = optuna.Trial(study, study.trials[0]._trial_id)
    trial.set_user_attr("note", "of somebody else")
    assert made.rank(study).trials is before.trials
    trial.set_user_attr("rungs", [0.0, 0.9])
    assert made.rank(study).trials is not before.trials


def test_a_failed_training_counts_as_the_worst() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    made = LeptonSampler(0, n_startup_trials=1, search_space=space, observe=observe)
    study = optuna.create_study(sampler=made, direction="maximize")
    for _ in range(40):
        trial = study.ask(space)
        x = trial.params["x"]
        trial.set_user_attr("rungs", [-math.inf if x > 0.5 else x])
    proposed = np.array([t.params["x"] for t in study.get_trials()])
    assert np.mean(proposed[12:] > 0.5) < 0.3  # Even draws: one in two.
    assert proposed[proposed <= 0.5].max() > 0.4


def test_a_budget_is_open_or_anything_between_the_costs_evenly_in_logarithms() -> None:
    drawn = [budgets([(8.0,), (32.0,), (64.0,)], random.Random(n))[0] for n in range(600)]
    limited = [cost for cost in drawn if cost < math.inf]
    assert 360 < len(limited) < 440
    assert all(8 <= cost <= 64 for cost in limited)
    assert 0.4 < sum(cost < math.sqrt(8 * 64) for cost in limited) / len(limited) < 0.6
    assert budgets([], random.Random(0)) == ()


def test_one_of_several_costs_is_limited_at_a_time() -> None:
    drawn = [budgets([(1.0, 5.0), (4.0, 0.0)], random.Random(n)) for n in range(60)]
    assert {sum(cost < math.inf for cost in two) for two in drawn} == {0, 1}
