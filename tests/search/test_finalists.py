from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_automl.search.finals import augmentation
from lepton_automl.search.finals.finalists import (
    FINALISTS,
    MAX_SEEDS,
    Finalist,
    FinalistSelection,
    FinalRun,
    makespan,
    plan_final_runs,
)
from lepton_automl.search.finals.selection import Option
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock, work_of
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import Plan, Trials
from lepton_automl.training.loop import initial_model
from tests.helpers.search import SPACE, make_trial, result, search_request, small_space

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)

SPACE_WITH_AUGMENT = SPACE.replace("[train]", "[train]\naugment = [0.0, 0.5, 1.0]")


def chosen(
    request: SearchRequest, right: dict[int, int], nets: dict[int, int], clock: Clock = ENDLESS
) -> list[Finalist]:
    """Finalists of trials with `right` of 200 samples correct and the nets of these numbers."""
    trials = Trials()
    for number, each in right.items():
        trials.add(replace(make_trial(nets[number]), number=number))
        trials.add_result(result(number, "0", each, epochs=9))
    options = [Option(n, np.arange(200) < k, trials[n].cost) for n, k in right.items()]
    found = FinalistSelection(request, TaskBuilder(request, trials), trials, clock).select(options)
    request.ledger.close()
    return found


def test_of_one_architecture_only_the_most_accurate_trial_is_a_finalist(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", objectives=("accuracy",))
    nets = {0: 7, 1: 8, 2: 7, 3: 9, 4: 10}
    found = chosen(request, {0: 190, 1: 170, 2: 180, 3: 160, 4: 150}, nets)
    assert [e.number for e in found] == [0, 1, 3]


def test_the_first_finalist_is_also_trained_with_stronger_augmentation(tmp_path: Path) -> None:
    request = search_request(tmp_path / "run", objectives=("accuracy",))
    request = replace(request, space=small_space(tmp_path, SPACE_WITH_AUGMENT))
    found = chosen(request, {0: 170, 1: 190, 2: 180}, {0: 0, 1: 1, 2: 2})
    assert [(e.number, e.augment) for e in found] == [
        (1, None),
        (1, 1.0),
        (2, None),
    ]  # A recipe has 0.5.
    assert len(found) == FINALISTS


@pytest.mark.parametrize(("share", "order"), [(0.99, [1.0, None]), (0.96, [None, 1.0])])
def test_an_overfitting_net_is_first_trained_with_stronger_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, order: list[float | None]
) -> None:
    request = search_request(tmp_path / "run", objectives=("accuracy",))
    request = replace(request, space=small_space(tmp_path, SPACE_WITH_AUGMENT))
    model = initial_model(make_trial(0).arch, request.dataset.preprocessing((8, 8)), 0)
    model.save(TaskBuilder(request, Trials()).checkpoint(TrainingKey(0)))
    monkeypatch.setattr(augmentation, "is_correct", lambda *a, **k: np.arange(100) < 100 * share)
    found = chosen(request, {0: 190}, {0: 0})  # 95 % of validation samples: an error of 5 %.
    assert [e.augment for e in found] == order


@pytest.mark.parametrize("left", [-100.0, -1e-9, 0.0])
@pytest.mark.parametrize("is_scarce", [False, True])
def test_after_the_end_of_the_budget_the_most_accurate_is_first(
    tmp_path: Path, left: float, is_scarce: bool
) -> None:
    request = search_request(
        tmp_path / "run", objectives=("accuracy",), budget_seconds=1.0, trials=None
    )
    trials = Trials()
    trials.plan = Plan(1 if is_scarce else 9, 1e-9, 0.0, own_epochs=9)
    assert trials.plan.is_scarce == is_scarce
    right = {0: 150, 1: 190, 2: 170}
    for number, each in right.items():
        trials.add(make_trial(number))
        trials.add_result(result(number, "0", each, epochs=1))
    options = [Option(n, np.arange(200) < k, trials[n].cost) for n, k in right.items()]
    clock = Clock(lambda: left, 0.0, 1e-9)
    found = FinalistSelection(request, TaskBuilder(request, trials), trials, clock).select(options)
    assert [e.number for e in found] == [1, 2, 0]
    assert plan_final_runs(found, 1, left) == []
    request.ledger.close()


def clock_of(request: SearchRequest, paces: dict[int, float], left: float) -> Clock:
    """A clock with `left` seconds, on which an epoch of each candidate takes so many seconds."""
    clock = Clock(lambda: left, 0.0, 1e-9)
    for number, seconds in paces.items():
        units = work_of(make_trial(number).cost.macs, len(request.dataset.train), 1)
        clock.learn(seconds, units, number)
    return clock


@pytest.mark.parametrize(("left", "order"), [(30.0, [2, 1]), (0.5, [0, 2, 1]), (60.0, [0, 2, 1])])
def test_a_trial_too_slow_for_half_of_its_recipe_is_replaced(
    tmp_path: Path, left: float, order: list[int]
) -> None:
    """Half of the nine epochs of the recipe takes 45, 0.45 and 0.9 seconds."""
    request = search_request(
        tmp_path / "run", objectives=("accuracy",), budget_seconds=100.0, trials=None
    )
    clock = clock_of(request, {0: 10.0, 1: 0.1, 2: 0.2}, left)
    found = chosen(request, {0: 190, 1: 170, 2: 189}, {0: 0, 1: 1, 2: 2}, clock)
    assert [e.number for e in found] == order


@pytest.mark.parametrize(("left", "order"), [(60.0, [0, 1]), (30.0, [1]), (0.2, [0, 1])])
def test_where_time_is_scarce_the_most_accurate_that_is_fast_enough_is_first(
    tmp_path: Path, left: float, order: list[int]
) -> None:
    """Half of the nine epochs of the recipe takes 45 and 0.45 seconds."""
    request = search_request(tmp_path / "run", budget_seconds=100.0, trials=None)
    trials = Trials()
    trials.plan = Plan(1, 1e-9, 0.0, own_epochs=9)
    right = {0: 190, 1: 150}
    for number, each in right.items():
        trials.add(make_trial(number))
        trials.add_result(result(number, "0", each, epochs=1))
    options = [Option(n, np.arange(200) < k, trials[n].cost) for n, k in right.items()]
    clock = clock_of(request, {0: 10.0, 1: 0.1}, left)
    found = FinalistSelection(request, TaskBuilder(request, trials), trials, clock).select(options)
    assert [e.number for e in found] == order
    request.ledger.close()


def some(count: int = 5, epochs: int = 9, each: float = 1.0) -> list[Finalist]:
    return [Finalist(number, epochs, 9, each) for number in range(count)]


def duration(
    plan: list[FinalRun], finalists_: list[Finalist], jobs: int, sizes: Sequence[float] = (1.0,)
) -> float:
    """By simulation: at every moment the first free worker takes the next training."""
    pace = {e.number: e.seconds_per_epoch for e in finalists_}
    ends = [0.0] * jobs
    for final in plan:
        worker = ends.index(min(ends))
        ends[worker] += final.epochs * pace[final.number] * sizes[final.fold]
    return max(ends)


def test_without_a_budget_the_three_best_get_the_planned_epochs_once() -> None:
    assert plan_final_runs(some(), 2, math.inf) == [
        FinalRun(number, 9) for number in range(FINALISTS)
    ]
    assert plan_final_runs(some(2), 1, math.inf) == [FinalRun(0, 9), FinalRun(1, 9)]


def test_with_little_time_there_are_fewer_finalists_and_then_continued_ones() -> None:
    least = some()[0].min_epochs
    numbers = {
        seconds: [f.number for f in plan_final_runs(some(), 1, seconds)]
        for seconds in (3 * least + 0.5, 2 * least + 0.5, least + 0.5)
    }
    assert list(numbers.values()) == [[0, 1, 2], [0, 1], [0]]
    assert plan_final_runs(some(), 1, 5.5) == [FinalRun(0, 5, from_scratch=False)]
    assert plan_final_runs(some(), 2, 5.5) == [FinalRun(n, 5, from_scratch=False) for n in (0, 1)]
    assert plan_final_runs(some(), 1, 0.5) == []


def test_a_training_from_scratch_has_the_epochs_of_the_recipe_and_twice_those_of_the_search() -> (
    None
):
    assert Finalist(0, 5, 27, 1.0).min_epochs == 27
    assert Finalist(0, 20, 27, 1.0).min_epochs == 40
    assert Finalist(0, 27, 27, 1.0).min_epochs == 54
    assert Finalist(0, 81, 27, 1.0).min_epochs == 81


def test_more_time_gives_more_epochs_and_then_more_seeds() -> None:
    longest = some()[0].max_epochs
    longer = plan_final_runs(some(), 1, 3 * longest - 8.0)
    assert [f.seed for f in longer] == [0, 0, 0]
    assert some()[0].min_epochs <= longer[0].epochs < longest
    again = plan_final_runs(some(), 1, 5.5 * longest)
    assert [(f.number, f.seed) for f in again] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]
    endless = plan_final_runs(some(), 1, 1e9)
    assert len(endless) == FINALISTS * MAX_SEEDS
    assert {f.epochs for f in endless} == {longest}


def test_an_idle_worker_trains_another_seed() -> None:
    plan = plan_final_runs(some(), 2, 2 * some()[0].min_epochs + 0.5)
    assert [(f.number, f.seed) for f in plan] == [(0, 0), (1, 0), (2, 0), (0, 1)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.01, 5.0), min_size=1, max_size=5),
    st.integers(1, 30),
    st.integers(1, 4),
    st.floats(0.1, 5000.0),
    st.lists(st.floats(0.5, 1.2), max_size=4),
)
def test_the_plan_ends_in_time(
    paces: list[float], epochs: int, jobs: int, seconds: float, folds: list[float]
) -> None:
    finalists_ = [Finalist(n, epochs, 9, pace) for n, pace in enumerate(paces)]
    sizes = [1.0, *folds]
    plan = plan_final_runs(finalists_, jobs, seconds, sizes)
    assert duration(plan, finalists_, jobs, sizes) <= seconds * (1 + 1e-9)
    assert len({f.key(0) for f in plan}) == len(plan)
    numbers = {f.number for f in plan}
    assert numbers <= set(range(FINALISTS if jobs <= 3 else jobs))
    # All finalists have the same folds, in place of other seeds, and fold 0 comes first.
    by_fold = [f.fold for f in plan]
    assert by_fold == sorted(by_fold)
    for fold in set(by_fold):
        assert {f.number for f in plan if f.fold == fold} == numbers
    assert not any(f.fold and f.seed for f in plan)
    if max(by_fold, default=0):
        assert not any(f.seed for f in plan)
    else:
        assert plan == plan_final_runs(finalists_, jobs, seconds)
    # As many finalists as without folds.
    assert numbers == {f.number for f in plan_final_runs(finalists_, jobs, seconds)}


def test_three_folds_come_before_more_epochs_and_all_others_after_them() -> None:
    least, most = some()[0].min_epochs, some()[0].max_epochs
    sizes = [1.0] * 5

    def planned(seconds: float) -> tuple[int, int]:
        plan = plan_final_runs(some(), 1, seconds, sizes)
        return len({run.fold for run in plan}), plan[0].epochs

    assert planned(3 * least + 0.5) == (1, least)
    assert planned(6 * least + 0.5) == (2, least)
    assert planned(9 * least + 0.5) == (3, least)
    assert planned(12 * least - 0.5)[0] == 3
    assert planned(12 * most - 0.5)[0] == 3
    assert planned(12 * most + 0.5) == (4, most)
    assert planned(1e9) == (5, most)
    only = plan_final_runs(some(1), 1, 1e9, sizes)
    assert [(run.fold, run.seed) for run in only] == [(0, 0), (0, 1), (0, 2)]


def test_without_a_budget_every_finalist_has_every_fold_once() -> None:
    plan = plan_final_runs(some(2), 1, math.inf, [1.0, 0.9])
    assert plan == [FinalRun(n, 9, fold=fold) for fold in (0, 1) for n in (0, 1)]
    assert plan_final_runs(some(1), 1, math.inf, [1.0, 0.9]) == [FinalRun(0, 9)]


def test_the_makespan_is_that_of_list_scheduling() -> None:
    for jobs, order in itertools.product((1, 2, 3), itertools.permutations((5.0, 2.0, 4.0, 1.0))):
        ends = [0.0] * jobs
        for each in order:
            ends[ends.index(min(ends))] += each
        assert makespan(order, jobs) == max(ends)


def test_a_final_run_survives_the_ledger_and_has_its_own_key() -> None:
    final = FinalRun(7, 40, 2, from_scratch=False)
    assert FinalRun.from_event(final.to_event()) == final
    older = {key: value for key, value in final.to_event().items() if key != "fold"}
    assert FinalRun.from_event(older) == final
    assert [str(FinalRun(7, 40, seed).key(1)) for seed in (0, 1)] == ["7-final-1", "7-final-1-1"]


@pytest.mark.parametrize(
    ("best", "right", "order"), [(190, 189, [1, 0]), (190, 150, [0, 1]), (198, 197, [0, 1])]
)
def test_where_time_is_scarce_the_larger_of_equally_good_nets_is_first(
    tmp_path: Path, best: int, right: int, order: list[int]
) -> None:
    """Unless there is nothing to gain: an error of 1 % is left."""
    request = search_request(tmp_path / "run", budget_seconds=100.0, trials=None)
    trials = Trials()
    trials.plan = Plan(1, 1e-9, 0.0, own_epochs=9)
    for number, (count, macs) in enumerate([(best, 1_000), (right, 2_000)]):
        trial = make_trial(number)
        trials.add(replace(trial, cost=replace(trial.cost, macs=macs, size_bytes=10 * macs)))
        trials.add_result(result(number, "0", count, epochs=1))
    options = [
        Option(n, trials.results[n][0].correct.astype(float), trials[n].cost) for n in trials
    ]
    clock = Clock(lambda: 1e6, 0.0, 1e-9)
    found = FinalistSelection(request, TaskBuilder(request, trials), trials, clock).select(options)
    assert [each.number for each in found] == order
    request.ledger.close()
