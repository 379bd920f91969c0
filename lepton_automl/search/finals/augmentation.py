"""Augmentation of the final trainings: that of the recipe or a stronger one, and why."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_automl.core.decisions import Certainty, Decision
from lepton_automl.data.tensors import load_labelled, subset
from lepton_automl.models.model import Model
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import RungResult
from lepton_automl.training.evaluate import is_correct

AUGMENTATION = "augmentation"
"""Name of the decision."""
_OVERFITTING_RATIO = 0.5
"""Where the error on training samples is below this share of the validation error, a longer
training needs stronger augmentation ("Stronger augmentation in final trainings" in
docs/decisions.md)."""
_OVERFITTING_SAMPLES = 2000
"""Training samples that this is measured on."""


def training_error(request: SearchRequest, tasks: TaskBuilder, result: RungResult) -> float | None:
    """Share of training samples, 0 to 1, that a net of the search classifies wrongly.

    None where its checkpoint is gone.
    """
    checkpoint = tasks.checkpoint(result.key)
    if not tasks.is_complete(checkpoint):
        return None
    model = Model.load(checkpoint)
    files = request.dataset.decoded_files("train", model.arch.size, request.folder.cache)
    samples = subset(load_labelled(files), _OVERFITTING_SAMPLES, request.config.seed)
    return float(1 - is_correct(model, samples, device=request.device).mean())


def overfits(training: float | None, validation: float) -> bool:
    """Whether an error on training samples is far below that on validation; not if unknown."""
    return training is not None and training < _OVERFITTING_RATIO * validation


def decision(
    own: float,
    stronger: float,
    chosen: float,
    accuracies: Mapping[float, float],
    where: str,
    errors: tuple[float, float] | None,
) -> Decision:
    """The augmentation of the training that ships.

    Parameters
    ----------
    own, stronger, chosen : float
        Strength in the recipe, the next one of the search space, and that of the training.
    accuracies : mapping of float to float
        Strength -> accuracy, 0 to 1, of the final trainings of this net.
    where : str
        The samples of `accuracies`, in words.
    errors : (float, float) or None
        Errors of the net of the search on training and on validation samples, 0 to 1; None: they
        were not measured.
    """
    kind = "that of its recipe" if chosen == own else f"stronger than in its recipe ({own:g})"
    certainty: Certainty = "measured"
    if len(accuracies) > 1:
        shown = sorted(accuracies.items())
        evidence = ", ".join(f"{share:.2%} with {strength:g}" for strength, share in shown)
        evidence += f" of {where}"
    elif errors is None:
        certainty = "assumed"
        evidence = "no other strength has a result, and the net of the search is not left to test"
    else:
        certainty = "inferred"
        relation = "below" if overfits(*errors) else "not below"
        evidence = f"in the search it was wrong on {errors[0]:.1%} of training samples and on "
        evidence += f"{errors[1]:.1%} of validation samples, {relation} {_OVERFITTING_RATIO:g} of "
        evidence += f"it; {own if chosen != own else stronger:g} has no result"
    choice = f"strength {chosen:g} in the final training, {kind}"
    option = "--space (augment in [train])"
    return Decision(AUGMENTATION, choice, evidence, certainty, option, is_detail=True)
