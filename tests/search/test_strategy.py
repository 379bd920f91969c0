from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lepton_automl.recipe import Recipe
from lepton_automl.search.strategy import recipe_of, stronger
from lepton_automl.search.trials import TrainingKey
from tests.searching import SPACE, small_space


@pytest.mark.parametrize(
    ("offered", "has", "next_one"),
    [("[0.0, 0.5, 1.0]", 0.0, 0.5), ("[1.0, 0.5, 0.0]", 0.5, 1.0), ("[0.0, 1.0]", 1.0, None)],
)
def test_the_next_stronger_change_that_the_space_offers(
    tmp_path: Path, offered: str, has: float, next_one: float | None
) -> None:
    text = "\n".join(line for line in SPACE.splitlines() if not line.startswith("augment"))
    space = small_space(tmp_path, text.replace("[train]", f"[train]\naugment = {offered}"))
    assert stronger(Recipe(augment=has), space) == next_one


def test_a_space_that_leaves_no_choice_has_nothing_stronger(tmp_path: Path) -> None:
    text = "\n".join(line for line in SPACE.splitlines() if not line.startswith("augment"))
    space = small_space(tmp_path, text.replace("[train]", "[train]\naugment = 0.5"))
    assert stronger(Recipe(augment=0.5), space) is None


def test_a_final_training_takes_the_augmentation_of_its_key() -> None:
    recipe = Recipe(augment=0.0, lr=0.3)
    assert recipe_of(recipe, TrainingKey.parse("7-final-0-1")) == recipe
    strong = TrainingKey.parse("7-final-0-1-augment-0.5")
    assert recipe_of(recipe, strong) == dataclasses.replace(recipe, augment=0.5)
