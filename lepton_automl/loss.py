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
    """

    def __init__(
        self, recipe: Recipe, teacher: Forward | None, weight: float, temperature: float
    ) -> None:
        self._smoothing, self._teacher = recipe.label_smoothing, teacher
        self._weight, self._temperature = weight, temperature

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean over a batch, given what the net answered it."""
        hard = self._hard(logits, batch)
        if self._teacher is None:
            return hard
        with torch.no_grad():
            wanted = self._teacher(batch.x)
        ours = F.log_softmax(logits / self._temperature, 1)
        theirs = F.log_softmax(wanted / self._temperature, 1)
        soft = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return (1 - self._weight) * hard + self._weight * self._temperature**2 * soft

    def _hard(self, logits: Tensor, batch: Batch) -> Tensor:
        if batch.others is None or batch.kept is None:
            return F.cross_entropy(logits, batch.labels, label_smoothing=self._smoothing)
        own, other = (
            F.cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="none")
            for labels in (batch.labels, batch.others)
        )
        return torch.lerp(other, own, batch.kept).mean()
