from __future__ import annotations

import itertools
from typing import Any

import pytest

from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.objectives import Objective, load
from lepton_automl.search.sampler import WISHES, Point, Sampler
from lepton_automl.search.space.draw import seed_of
from lepton_automl.search.trials import Rejection, Trial
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch

ARCH = random_arch(0, input=(8, 8, 1), classes=3)
OBJECTIVES: list[Objective] = [load("accuracy"), load("size_bytes")]


def draw(trial: Any) -> tuple[Arch, Recipe]:
    if trial.suggest_categorical("kind", ["good", "odd"]) == "odd":
        trial.suggest_float("only", 0.0, 1.0, step=0.1)
    if trial.suggest_int("width", 8, 64, step=8) == 64:
        raise ArchError("does not fit", fix="none")
    return ARCH, Recipe(lr=trial.suggest_float("lr", 0.01, 0.1, step=0.01))


def a_sampler(seed: int = 0, first: tuple[dict[str, Any], ...] = ()) -> Sampler:
    return Sampler(draw, OBJECTIVES, first, seed=seed)


def cost(point: Point) -> Cost:
    size = 100 * point.params["width"]
    return Cost(size, size, size, size, size)


def accuracy(point: Point) -> float:
    return 0.9 - abs(point.params["lr"] - 0.05) + point.params["width"] / 1000


class Play:
    """A short search: what is refused, what fails, what is told."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.candidates = sampler, list[tuple[Trial, float | None]]()

    def step(self, number: int) -> dict[str, Any]:
        refused: list[Rejection] = []
        for attempt in itertools.count():
            point = self.sampler.ask(number, attempt)
            if point.arch is None or point.recipe is None:
                refused.append(self.sampler.refuse(point, {"arch": 1.0}))
            elif point.params["width"] == 8:
                refused.append(self.sampler.refuse(point, {"max_size_bytes": 0.5}))
            else:
                break
        self.sampler.accept(number, point)
        nets = point.arch.to_json(), point.recipe.to_json()
        about = (point.params, point.distributions, *nets, cost(point))
        value = None if number % 5 == 4 else accuracy(point)
        self.sampler.tell(number, value, cost(point))
        self.candidates.append((Trial(number, *about, tuple(refused)), value))
        return point.params


@pytest.mark.parametrize("broken_at", [1, 7, 13, 24])
def test_a_sampler_rebuilt_from_what_was_recorded_draws_what_the_first_would_have(
    broken_at: int,
) -> None:
    whole, begun = Play(a_sampler()), Play(a_sampler())
    wanted = [whole.step(number) for number in range(30)]
    for number in range(broken_at):
        begun.step(number)
    rebuilt = a_sampler()
    for candidate, value in begun.candidates:
        event = Trial.from_event(candidate.to_event())
        rebuilt.restore(event, value, finished=True)
    again = Play(rebuilt)
    assert [again.step(number) for number in range(broken_at, 30)] == wanted[broken_at:]


def test_a_candidate_that_was_at_work_is_told_after_the_restart() -> None:
    play = Play(a_sampler())
    play.step(0)
    rebuilt = a_sampler()
    candidate, value = play.candidates[0]
    rebuilt.restore(candidate, None, finished=False)
    rebuilt.tell(0, value, candidate.cost)
    trials = [sampler._study.get_trials() for sampler in (play.sampler, rebuilt)]
    told = [[(t.params, t.values) for t in ts if t.values] for ts in trials]
    assert told[0] == told[1]


def test_known_good_points_come_first_and_in_order() -> None:
    first = ({"kind": "good", "width": 24, "lr": 0.02}, {"kind": "good", "width": 16, "lr": 0.1})
    play = Play(a_sampler(first=first))
    assert [play.step(0), play.step(1)] == list(first)


def test_the_seed_decides_the_points() -> None:
    draws = [[Play(a_sampler(seed)).step(3) for _ in range(2)] for seed in (0, 1)]
    assert draws[0][0] == draws[0][1]
    assert draws[0] != draws[1]


def test_wishes_come_after_the_known_good_ones_in_order() -> None:
    wishes = [{"kind": "good", "width": 16 + 8 * n, "lr": 0.03} for n in range(3)]
    sampler = a_sampler(first=({"kind": "good", "width": 48, "lr": 0.1},))
    sampler.wishes = wishes
    assert sampler.ask(0, 0).params["width"] == 48
    assert [sampler.ask(1, attempt).params for attempt in range(3)] == wishes


def test_what_a_wish_leaves_open_is_drawn_and_the_study_knows_it() -> None:
    sampler = a_sampler()
    sampler.wishes = [{"kind": "odd", "width": 16}]
    point = sampler.ask(0, 0)
    assert {"only", "lr"} < set(point.params)
    assert sampler._study.get_trials()[0].params == point.params


def test_after_many_refusals_points_are_drawn_evenly() -> None:
    sampler = a_sampler()
    sampler.wishes = [{"kind": "good", "width": 16, "lr": 0.05}] * (WISHES + 10)
    drawn = [sampler.ask(0, WISHES + n).params for n in range(10)]
    assert len({str(params) for params in drawn}) > 5


def test_layers_that_do_not_fit_are_a_point_without_an_architecture() -> None:
    point = a_sampler().ask(0, 0, given={"kind": "good", "width": 64, "lr": 0.01})
    assert point.arch is None


def test_seeds_are_small_stable_and_different() -> None:
    assert seed_of(0, 1) == seed_of(0, 1) != seed_of(1, 0)
    assert all(0 <= seed_of(n) < 2**31 for n in range(100))
