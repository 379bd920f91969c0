from __future__ import annotations

import dataclasses
from typing import Any

from lepton_automl.config import Limits
from lepton_automl.cost.cost import Cost
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import load
from lepton_automl.search.proposals.candidate_pool import Ideas
from lepton_automl.search.scheduler import Advice, Advisor
from lepton_automl.search.space.parameters import Choice, Range
from lepton_automl.search.surrogate import Encoding
from lepton_automl.search.trials import Trial, Trials
from lepton_automl.search.warm_start import KnownTrial
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch
from tests.helpers.search import result

ARCH = random_arch(0, input=(8, 8, 1), classes=3)
NETS = ARCH.to_json(), Recipe().to_json()
KNOBS = {"width": Range(8, 64, 8), "lr": Choice((0.05, 0.1, 0.2))}
DRAWN: list[int] = []


def make(trial: Any) -> tuple[Arch, Recipe]:
    DRAWN.append(trial.suggest_int("width", 8, 64, step=8))
    trial.suggest_categorical("lr", [0.05, 0.1, 0.2])
    return ARCH, Recipe()


def guess(arch: Arch) -> Cost:
    """Of the point that was drawn last, as ideas are guessed one after the other."""
    del arch
    return Cost(1000, 1000, 1000, 1000, 1000)


def advisor(trials: Trials, limits: Limits = Limits(), **changes: Any) -> Advisor:  # noqa: B008
    objectives = [load(name) for name in changes.get("objectives", ("accuracy",))]
    ideas = Ideas(make, changes.get("guess", guess), limits, 0)
    has_time = changes.get("has_time", lambda _: True)
    return Advisor(trials, objectives, Encoding(KNOBS), ideas, lambda number: 3, 0, (), has_time)


def known(*rows: tuple[int, float, tuple[int, ...]]) -> Trials:
    """Width, learning rate and right answers of 200 at each rung."""
    trials = Trials()
    for number, (width, lr, right) in enumerate(rows):
        cost = Cost(100 * width, 1, 1, 1, 1)
        trials.add(
            Trial(number, {"width": width, "lr": lr}, {}, ARCH.to_json(), Recipe().to_json(), cost)
        )
        for rung, n in enumerate(right):
            trials.add_result(result(number, str(rung), n))
    return trials


def test_before_anything_is_known_ideas_are_taken_as_they_come() -> None:
    advice = advisor(Trials()).advise([], [], new=True)
    assert advice.promote is None
    assert len(advice.wishes) > 50


def test_the_clear_leader_is_promoted_when_nobody_new_may_come() -> None:
    trials = known((8, 0.1, (80,)), (64, 0.1, (160,)), (16, 0.2, (90,)))
    assert advisor(trials).advise([0, 1, 2], [], new=False) == Advice(1)


def test_new_points_like_the_best_are_wished_first() -> None:
    rows = [
        (width, lr, (int(60 + width - 300 * abs(lr - 0.1)),))
        for width in (8, 24, 40)
        for lr in (0.05, 0.1, 0.2)
    ]
    advice = advisor(known(*rows)).advise([], [], new=True)
    assert advice.promote is None
    first = [wish["width"] for wish in advice.wishes[:5]]
    assert min(first) >= 40
    assert [wish["lr"] for wish in advice.wishes[:5]].count(0.1) >= 3


def test_the_same_trials_give_the_same_advice_whoever_asked_before() -> None:
    trials = known((8, 0.1, (80, 90)), (64, 0.1, (120,)), (16, 0.2, (90,)))
    one = advisor(trials)
    for _ in range(3):
        one.advise([1, 2], [], new=True)
    assert one.advise([0, 1, 2], [], new=True) == advisor(trials).advise([0, 1, 2], [], new=True)


def test_ideas_that_seem_to_break_limits_are_no_wishes_while_others_do_not() -> None:
    def by_width(arch: Arch) -> Cost:
        return Cost(next(widths) * 100, 1, 1, 1, 1)

    limits = Limits(max_size_bytes=3000)
    DRAWN.clear()
    widths = iter([])
    ideas = Ideas(make, lambda arch: Cost(1, 1, 1, 1, 1), Limits(), 0)
    drawn = [idea.params["width"] for idea in ideas(0, [])]
    widths = iter(drawn)
    advice = advisor(Trials(), limits, guess=by_width).advise([], [], new=True)
    assert {wish["width"] for wish in advice.wishes} == {w for w in drawn if w <= 30}


def test_ideas_that_could_not_be_trained_to_the_end_are_no_wishes() -> None:
    macs: list[int] = []

    def growing(arch: Arch) -> Cost:
        del arch
        macs.append(len(macs))
        return dataclasses.replace(Cost(1, 1, 1, 1, 1), macs=macs[-1])

    def wishes(most: int) -> list[dict[str, Any]]:
        macs.clear()
        one = advisor(Trials(), guess=growing, has_time=lambda cost: cost.macs <= most)
        return [dict(wish) for wish in one.advise([], [], new=True).wishes]

    everything = wishes(1000)
    assert wishes(19) == everything[:20]
    # Where there is time for none, those with the least work are left.
    assert wishes(-1) == everything[:12]


def test_a_failed_training_counts_as_the_worst() -> None:
    trials = known((64, 0.05, (150,)), (64, 0.1, (140,)), (56, 0.2, ()))
    trials.add_result(result(2, "0", 0, failed="diverged"))
    advice = advisor(trials).advise([], [], new=True)
    assert all(wish["lr"] != 0.2 for wish in advice.wishes[:3])


def test_some_turns_look_for_the_best_at_a_lower_cost() -> None:
    """With 40 different turns both the large leader and the small one are promoted."""
    promoted = set()
    for extra in range(40):
        trials = known((64, 0.1, (180,)), (8, 0.1, (120,)), *[(8, 0.2, (60,))] * extra)
        one = advisor(trials, objectives=("accuracy", "size_bytes"))
        promoted.add(one.advise([0, 1], [], new=False).promote)
    assert promoted == {0, 1}


def seen(width: int, *accuracies: float | None) -> KnownTrial:
    """A candidate of another run."""
    candidate = Trial(
        9, {"width": width, "lr": 0.1}, {}, ARCH.to_json(), Recipe().to_json(), guess(ARCH)
    )
    results = tuple((2 - rung, accuracy) for rung, accuracy in enumerate(accuracies))
    return KnownTrial(candidate, results, 200)


def test_what_another_run_has_seen_counts_as_known_but_cannot_go_on() -> None:
    observed = [
        seen(8, 0.3),
        seen(16, 0.4),
        seen(56, 0.85),
        seen(64, 0.9, 0.95, 0.97),
        seen(8, None),
    ]
    objectives, ideas = [load("accuracy")], Ideas(make, guess, Limits(), 0)
    made = Advisor(
        Trials(), objectives, Encoding(KNOBS), ideas, lambda number: 3, 0, observed, lambda _: True
    )
    advice = made.advise([], [], new=True)
    assert advice.promote is None
    widths = [wish["width"] for wish in advice.wishes[:5]]
    assert min(widths) >= 48
    assert sum(
        advisor(Trials()).advise([], [], new=True).wishes[n]["width"] < 48 for n in range(10)
    )
