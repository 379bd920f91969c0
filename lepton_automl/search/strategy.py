"""Strategy: a last training may change pictures more than the short ones of the search did.

In a few passes a net learns least from pictures that are changed a lot, in many passes it learns
unchanged ones by heart; so what the search found best is tried with the next stronger changes as
well, and validation decides (benchmarks/README.md, "Stronger changes at the end").
"""

from __future__ import annotations

import dataclasses

from lepton_automl.recipe import Recipe
from lepton_automl.space import SearchSpace

_MARK = "-augment-"


def stronger(recipe: Recipe, space: SearchSpace) -> float | None:
    """The next stronger `augment` that the space offers; None where there is none."""
    offered = {float(v) for knob in space.train_knobs("augment") for v in knob.values}
    return min((value for value in offered if value > recipe.augment), default=None)


def marked(label: str, augment: float | None) -> str:
    """The name of a last training, with its strength where that is not the recipe's."""
    return label if augment is None else f"{label}{_MARK}{augment:g}"


def augment_of(label: str) -> float | None:
    """What `marked` put into a name."""
    _, _, value = label.partition(_MARK)
    return float(value) if value else None


def recipe_of(recipe: Recipe, label: str) -> Recipe:
    """How the training of that name goes, where its candidate has `recipe`."""
    augment = augment_of(label)
    return recipe if augment is None else dataclasses.replace(recipe, augment=augment)
