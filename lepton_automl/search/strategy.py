"""Strategy: a last training may change pictures more than the short ones of the search did.

In a few passes a net learns least from pictures that are changed a lot, in many passes it learns
unchanged ones by heart; so what the search found best is tried with the next stronger changes as
well, and validation decides (benchmarks/README.md, "Stronger changes at the end").
"""

from __future__ import annotations

import dataclasses

from lepton_automl.recipe import Recipe
from lepton_automl.search.trials import TrainingKey
from lepton_automl.space import SearchSpace


def stronger(recipe: Recipe, space: SearchSpace) -> float | None:
    """The next stronger `augment` that the space offers; None where there is none."""
    offered = {float(v) for knob in space.train_parameters("augment") for v in knob.values}
    return min((value for value in offered if value > recipe.augment), default=None)


def recipe_of(recipe: Recipe, key: TrainingKey) -> Recipe:
    """The settings of one training of a trial that has `recipe`."""
    return recipe if key.augment is None else dataclasses.replace(recipe, augment=key.augment)
