"""Known-good nets that a search trains first: which of them, for these data and this time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_automl.core.decisions import Decision
from lepton_automl.core.units import counted, epochs_text
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.trials import Trials
from lepton_automl.search.warm_start import is_at
from lepton_automl.training.recipe import Recipe

MIN_RECIPE_SHARE = 0.5
"""Least epochs of a useful last training, as a share of the recipe's: with fewer, a smaller net
that gets more of them is as good (docs/decisions.md, "One space for all pictures")."""
MAX_FINAL_SHARE, MAX_FIRST_SHARE = 0.7, 0.3
"""Largest shares of the search time that such a training of a net may take, and the first rungs of
all nets together."""


@dataclass(frozen=True)
class KnownNet:
    """A known-good point with the size of its training on these data."""

    work: float
    """Size of one epoch of its training, in units of `time_plan.work_of`."""
    recipe_epochs: int


def distinct(
    points: Sequence[Mapping[str, Any]], draw: Callable[[SpaceTrial], tuple[Arch, Recipe]]
) -> list[Mapping[str, Any]]:
    """`points` without those that give the net and the recipe of an earlier one.

    Points of different resolutions are one where the data are smaller than both. A point whose
    layers do not fit together is left to the sampler, which rejects it.
    """
    seen, kept = set(), []
    for point in points:
        try:
            arch, recipe = draw(RandomTrial(0, dict(point)))
        except ArchError:
            kept.append(point)
            continue
        identity = arch.hash, recipe.to_json()
        if identity not in seen:
            seen.add(identity)
            kept.append(point)
    return kept


def affordable(
    nets: Sequence[KnownNet], first_epochs: int, seconds_per_work: float, seconds: float, jobs: int
) -> list[int]:
    """Indices of the nets whose training is possible in the time, in their order.

    The first net always is one of them. The others follow where there is time: the first rungs of
    all may take `MAX_FIRST_SHARE` of it, and `MIN_RECIPE_SHARE` of the recipe of each
    `MAX_FINAL_SHARE`.

    Parameters
    ----------
    nets : sequence of KnownNet
        At least one.
    first_epochs : int
        Epochs of the first rung, at least 1.
    seconds_per_work : float
        Measured speed, above 0.
    seconds : float
        Time of the search, at least 0.
    jobs : int
        Number of workers.
    """
    left = MAX_FIRST_SHARE * seconds * jobs
    kept = []
    for index, net in enumerate(nets):
        epoch = seconds_per_work * net.work
        is_trainable = MIN_RECIPE_SHARE * net.recipe_epochs * epoch <= MAX_FINAL_SHARE * seconds
        if not index or (is_trainable and first_epochs * epoch <= left):
            kept.append(index)
            left -= first_epochs * epoch
    return kept


def decision(space: SearchSpace, trials: Trials) -> Decision | None:
    """What the first rungs of the known-good nets of the default space show; None before them."""
    reached = {}
    for name, point in zip(space.candidate_names, space.candidates, strict=True):
        number = next((n for n in trials.trained() if is_at(trials[n].params, point)), None)
        if number is not None:
            result = trials.results[number][0]
            reached[name] = (result.accuracy, result.epochs)
    if not reached:
        return None
    best = max(reached, key=lambda name: reached[name][0])
    texts = [f"{name} {share:.1%}" for name, (share, _) in reached.items()]
    epochs = max(epochs for _, epochs in reached.values())
    missing = [name for name in space.candidate_names if name not in reached]
    left_out = f"; not tried: {', '.join(missing)}" if missing else ""
    if space.has_few_samples:
        values = ", ".join(f"{path} {value}" for path, value in space.few.values.items())
        left_out += f"; with {values}, as for fewer than {space.few.samples:,} training samples"
    return Decision(
        "search space",
        f"{space.name}, begun with {counted(len(reached), 'known-good net')}, the best {best}",
        f"validation accuracy after {epochs_text(epochs)}: {', '.join(texts)}{left_out}",
        "measured" if len(reached) > 1 else "assumed",
        "--space",
    )
