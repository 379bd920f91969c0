from __future__ import annotations

from typing import Any

from lepton_automl.cost.cost import Cost
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import load
from lepton_automl.search.rungs import Rung, RungEntries, RungEntry
from lepton_automl.search.sampler.candidate_pool import CandidateEstimate
from lepton_automl.search.scheduler import Action, Scheduler
from lepton_automl.search.space.parameters import Choice, Range
from lepton_automl.search.study import SearchStudy
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch

ARCH = random_arch(0, input=(8, 8, 1), classes=3)
PARAMETERS = {"width": Range(8, 64, 8), "lr": Choice((0.05, 0.1, 0.2))}
COST = Cost(1, 1, 1, 1, 1)


def draw(trial: Any) -> tuple[Arch, Recipe]:
    trial.suggest_int("width", 8, 64, step=8)
    trial.suggest_categorical("lr", (0.05, 0.1, 0.2))
    return ARCH, Recipe()


def known(
    *rows: tuple[int, float, tuple[int, ...]],
    sampler: str = "lepton",
    objectives: tuple[str, ...] = ("accuracy",),
) -> SearchStudy:
    """Width, learning rate and right answers of 200 at each rung."""

    def estimate(params: Any) -> CandidateEstimate:
        sizes = {1: 100.0 * params["width"]} if len(objectives) > 1 else {}
        return CandidateEstimate(params, sizes)

    loaded = [load(name) for name in objectives]
    study = SearchStudy(draw, PARAMETERS, loaded, estimate, sampler=sampler, seed=0)
    for number, (width, lr, right) in enumerate(rows):
        study.accept(number, study.ask({"width": width, "lr": lr}))
        for rung, n in enumerate(right):
            study.record(number, (2 - rung, n / 200, 200), COST)
    return study


def test_before_anything_is_known_a_new_trial_is_proposed() -> None:
    assert Scheduler(known()).next_action([], may_propose=True) == Action()


def test_the_clear_leader_is_promoted_when_no_new_trial_may_start() -> None:
    study = known((8, 0.1, (80,)), (64, 0.1, (160,)), (16, 0.2, (90,)))
    assert Scheduler(study).next_action([0, 1, 2], may_propose=False) == Action(1)


def test_nothing_is_left_where_neither_is_allowed() -> None:
    assert Scheduler(known((8, 0.1, (80,)))).next_action([], may_propose=False) is None


def test_a_new_trial_starts_where_nothing_promotable_is_any_good() -> None:
    """The best was trained to the end; only the worst could train longer."""
    study = known((64, 0.1, (150, 160, 170)), (8, 0.2, (20,)), (56, 0.1, (140, 150, 160)))
    assert Scheduler(study).next_action([1], may_propose=True) == Action()


def test_a_leader_that_is_far_ahead_is_promoted_before_a_new_trial() -> None:
    rows = [(w, lr, (60 + w // 2,)) for w in (8, 24, 40) for lr in (0.05, 0.1, 0.2)]
    study = known(*rows, (64, 0.1, (190,)))
    assert Scheduler(study).next_action(list(range(10)), may_propose=True) == Action(9)


def test_proposals_resemble_the_best() -> None:
    rows = [
        (width, lr, (int(60 + width - 300 * abs(lr - 0.1)),))
        for width in (8, 24, 40)
        for lr in (0.05, 0.1, 0.2)
    ]
    study = known(*rows)
    points = []
    for number in range(9, 13):
        point = study.ask()
        study.accept(number, point)
        study.begin(number, 2)
        points.append(point.params)
    assert min(p["width"] for p in points) >= 40
    assert [p["lr"] for p in points].count(0.1) >= 3


def test_the_same_results_give_the_same_action() -> None:
    rows = ((8, 0.1, (80, 90)), (64, 0.1, (120,)), (16, 0.2, (90,)))
    one = Scheduler(known(*rows))
    for _ in range(3):
        one.next_action([1, 2], may_propose=True)
    fresh = Scheduler(known(*rows))
    assert one.next_action([0, 1, 2], may_propose=True) == fresh.next_action(
        [0, 1, 2], may_propose=True
    )


def test_some_turns_look_for_the_best_at_a_lower_cost() -> None:
    """With 40 different turns both the large leader and the small one are promoted."""
    promoted = set()
    for extra in range(40):
        rows = ((64, 0.1, (180,)), (8, 0.1, (120,)), *[(8, 0.2, (60,))] * extra)
        study = known(*rows, objectives=("accuracy", "size_bytes"))
        action = Scheduler(study).next_action([0, 1], may_propose=False)
        assert action is not None
        promoted.add(action.promote)
    assert promoted == {0, 1}


def test_each_kind_of_sampler_has_its_rule_of_promotion() -> None:
    entries = [RungEntry(n, 0.5 + n / 100, (), 1000) for n in range(6)]
    rungs = [Rung(RungEntries(entries), set())]
    assert Scheduler(known()).promotable(rungs, closing=False) == [0, 1, 2, 3, 4, 5]
    assert Scheduler(known(sampler="tpe")).promotable(rungs, closing=False) == [5, 4]
