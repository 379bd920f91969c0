"""Nets of other folds, which are cut like the net that ships, so that all samples judge a cut.

A validation part of a few hundred samples, or of one or two groups, cannot show that a cut loses
half a point. The net of a fold was trained on all samples but those of the fold; the same cut of
it, with the same recoveries (`pruning.prune`), is judged on the fold.

Source: Chernozhukov et al. 2018, The Econometrics Journal 21, C1, section 3 (cross-fitting).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lepton_automl.compress.context import CompressionContext, HeldOutPictures
from lepton_automl.compress.evaluation import paired_margins, pooled_drop
from lepton_automl.compress.refit import everything
from lepton_automl.core.events import Event
from lepton_automl.core.units import epochs_text
from lepton_automl.data.tensors import selected
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.metrics.paired import SmoothedDrop
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import Diverged, fit, initial_model

FoldNets = Mapping[int, Model]
"""Fold, from 1, to the float net that was not trained on it."""
NO_NETS: FoldNets = MappingProxyType({})
REFERENCE = "reference"
"""Name of the uncut nets in `save_fold_nets`."""


def with_references(context: CompressionContext, folder: Path) -> CompressionContext:
    """`context` with an uncut net for each fold.

    Those that `context` has or that are in `folder` are used; others are trained as the reference
    was, but only where no time limit is set.

    Parameters
    ----------
    context : CompressionContext
        With `folds`.
    folder : Path
        Folder of the compression.
    """
    assert context.folds is not None, "folds are given"
    nets = {k: net for k, net in context.fold_references.items() if k < context.most_folds}
    wanted = range(1, min(context.folds.count, context.most_folds))
    for fold in wanted:
        found = nets.get(fold) or _load(folder, REFERENCE, fold)
        if found is None and context.seconds_left is None:
            found = _trained_reference(context, fold)
            if found is not None:
                found.save(_place(folder, REFERENCE, fold))
        if found is not None:
            nets[fold] = found
    return dataclasses.replace(context, fold_references=nets)


def _trained_reference(context: CompressionContext, fold: int) -> Model | None:
    """A net like the reference that is trained without `fold`; None where that fails."""
    own = _fold_data(context, fold)
    reference = context.reference
    epochs = round(reference.metrics.get("epochs", context.recipe.epochs))
    started = initial_model(reference.arch, reference.preprocessing, context.seed + fold)
    try:
        trained = fit(
            started,
            own.train,
            context.recipe,
            epochs=epochs,
            seed=context.seed + fold,
            device=context.device,
            micro_batches=context.micro_batches(started),
            training_slot=context.training_slot,
        )
    except Diverged:
        return None
    right = is_correct(trained, own.validation, device=context.device)
    share = balanced_mean(right, own.validation.strata)
    text = f"a net is trained without fold {fold}, {epochs_text(epochs)}: {share:.2%} on the fold"
    context.emit(Event("compress", f"{text}; cuts are judged on it too"))
    return trained


def fold_context(context: CompressionContext, fold: int) -> CompressionContext:
    """The context in which the net of a fold is cut and judged: its samples, its reference."""
    own = _fold_data(context, fold)
    return dataclasses.replace(own, reference=context.fold_references[fold])


def _fold_data(context: CompressionContext, fold: int) -> CompressionContext:
    assert context.folds is not None, "folds are given"
    data, index = everything(context), context.folds.evaluated_index(fold)
    groups = context.folds.samples.groups
    return dataclasses.replace(
        context,
        train=selected(data, context.folds.training_index(fold)),
        validation=selected(data, index),
        validation_groups=None if groups is None else groups[index],
        folds=None,
        fold_references={},
    )


def drop_on_folds(
    model: Model, context: CompressionContext, pictures: HeldOutPictures, nets: FoldNets
) -> SmoothedDrop:
    """What a cut loses: `model` on `pictures` of the validation part, the others on their folds.

    Parameters
    ----------
    model : Model
        Float or quantized.
    context : CompressionContext
        With `folds` and `fold_references` where there are `nets`.
    pictures : HeldOutPictures
        Of the validation part.
    nets : mapping of int to Model
        Float nets of the folds after the same cuts.
    """
    parts = [paired_margins(model, context, pictures)]
    for fold, net in nets.items():
        own = fold_context(context, fold)
        parts.append(paired_margins(net, own, own.held_out))
    return pooled_drop(parts)


def save_fold_nets(folder: Path, name: str, nets: FoldNets) -> None:
    """Save the nets of the folds after step `name`.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    for fold, net in nets.items():
        net.save(_place(folder, name, fold))


def load_fold_nets(context: CompressionContext, folder: Path, name: str) -> dict[int, Model]:
    """The nets of the folds after step `name`, of those that have one and a reference.

    Raises
    ------
    DataError
        If one is damaged.
    """
    if name == REFERENCE:
        return dict(context.fold_references)
    found = {fold: _load(folder, name, fold) for fold in context.fold_references}
    return {fold: net for fold, net in found.items() if net is not None}


def _load(folder: Path, name: str, fold: int) -> Model | None:
    place = _place(folder, name, fold)
    return Model.load(place) if (place / "weights.safetensors").is_file() else None


def _place(folder: Path, name: str, fold: int) -> Path:
    return folder / "folds" / f"{name}-{fold}"
