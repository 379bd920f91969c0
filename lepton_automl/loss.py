"""Loss: what a training makes small, from labels and from a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.batches import Batch
from lepton_automl.recipe import Recipe

Forward = Callable[[Tensor], Tensor]
"""Logits (N, classes) of normalised pixels (N, C, H, W)."""


class Loss:
    """Cross entropy, mixed with the distance from a teacher (Hinton et al. 2015, section 2).

    Parameters
    ----------
    recipe : Recipe
        Its label smoothing.
    teacher : callable or None
        Answers the same pictures; None: the labels alone count.
    weight : float
        Of the teacher, 0 to 1.
    temperature : float
        By which both answers are softened, above 0.
    class_weights : Tensor, optional
        (classes,): what a picture of each class counts; None: all count alike.
    """

    def __init__(
        self,
        recipe: Recipe,
        teacher: Forward | None,
        weight: float,
        temperature: float,
        class_weights: Tensor | None = None,
    ) -> None:
        self._smoothing, self._teacher = recipe.label_smoothing, teacher
        self._weight, self._temperature = weight, temperature
        self._class_weights = class_weights

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean over a batch, given what the net answered it."""
        # No answer depends on what all logits have in common, so their gradients sum to rounding
        # errors, which Muon makes as long as any other step: a net that learns from its like drifts
        # that way, and a few of its channels grow until int8 can hardly tell the others apart.
        logits = logits - logits.mean(1, keepdim=True)
        hard = self._hard(logits, batch)
        if self._teacher is None:
            return hard
        with torch.no_grad():
            wanted = self._teacher(batch.x)
        ours = F.log_softmax(logits / self._temperature, 1)
        theirs = F.log_softmax(wanted / self._temperature, 1)
        soft = self._soft(ours, theirs, batch)
        return (1 - self._weight) * hard + self._weight * self._temperature**2 * soft

    def _hard(self, logits: Tensor, batch: Batch) -> Tensor:
        if (batch.others is None or batch.kept is None) and self._class_weights is None:
            return F.cross_entropy(logits, batch.labels, label_smoothing=self._smoothing)

        def of(labels: Tensor) -> Tensor:
            loss = F.cross_entropy(
                logits, labels, label_smoothing=self._smoothing, reduction="none"
            )
            return loss if self._class_weights is None else loss * self._class_weights[labels]

        return _mixed(of, batch).mean()

    def _soft(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        weights = self._class_weights
        if weights is None:
            return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        each = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        return (each * _mixed(lambda labels: weights[labels], batch)).mean()


def _mixed(of: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """(B,): what `of` gives for labels, by the shares of the pictures in each mixture."""
    own = of(batch.labels)
    if batch.others is None or batch.kept is None:
        return own
    return torch.lerp(of(batch.others), own, batch.kept)
