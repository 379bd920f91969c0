from __future__ import annotations

from typing import Any

from lepton_automl.config import Limits
from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.proposals.candidate_pool import NEAR, STEP, WINDOW, Asked, Ideas
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch

ARCH = random_arch(0, input=(8, 8, 1), classes=3)
WIDTHS = tuple(range(8, 136, 8))


def make(trial: Any) -> tuple[Arch, Recipe]:
    if trial.suggest_categorical("kind", ["plain", "odd"]) == "odd":
        trial.suggest_int("only", 0, 5, step=1)
    if trial.suggest_int("width", 8, 128, step=8) == 8:
        raise ArchError("does not fit", fix="none")
    trial.suggest_float("lr", 0.0, 1.0, step=0.01)
    return ARCH, Recipe()


def ideas(seed: int = 0) -> Ideas:
    return Ideas(make, lambda arch: Cost(1, 1, 1, 1, 1), Limits(), seed)


def test_ideas_follow_from_seed_turn_and_best_points_alone() -> None:
    best = [{"kind": "odd", "only": 3, "width": 64, "lr": 0.5}]
    long = ideas()
    for turn in range(5):
        long(turn, best)
    drawn = [[i.params for i in source(5, best)] for source in (long, ideas(), ideas(1))]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_each_turn_brings_some_new_points_drawn_evenly() -> None:
    source = ideas()
    first, second = ([str(i.params) for i in source(turn, [])] for turn in (0, 1))
    new = set(second) - set(first)
    assert 0 < len(new) <= STEP
    assert len(first) <= WINDOW


def test_points_that_do_not_fit_are_left_out_and_others_name_only_what_they_have() -> None:
    for idea in ideas()(0, []):
        assert idea.params["width"] != 8
        assert ("only" in idea.params) == (idea.params["kind"] == "odd")


def test_near_points_differ_from_a_best_one_in_few_parameters() -> None:
    best = {"kind": "odd", "only": 3, "width": 64, "lr": 0.5}
    near = [i.params for i in ideas()(0, [best])][-NEAR // 2 :]
    changed = [sum(best.get(k) != p.get(k) for k in {*best, *p}) for p in near]
    assert max(changed) <= 3  # A kind that is changed takes its own parameter along.
    assert any(changed)


def test_values_given_but_not_asked_for_are_known_as_such() -> None:
    asked = Asked(0, {"width": 16, "only": 3})
    assert asked.suggest_int("width", 8, 64, step=8) == 16
    assert asked.asked == ["width"]
