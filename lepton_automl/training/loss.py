"""Training loss: cross entropy, label smoothing, mixed labels, class weights, distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.training.loader import Batch
from lepton_automl.training.recipe import Recipe

Forward = Callable[[Tensor], Tensor]
"""Logits (N, classes) of normalised pixels (N, C, H, W)."""


class Loss:
    """Cross entropy, optionally with distillation from a teacher (Hinton et al. 2015, sec. 2).

    Parameters
    ----------
    recipe : Recipe
        For its label smoothing.
    teacher : callable or None
        Computes logits for the same pixels; None trains on the labels alone.
    distill_weight : float
        Weight of the distillation term, 0 to 1.
    temperature : float
        Softmax temperature of the distillation term, above 0.
    class_weights : Tensor, optional
        (classes,): weight of a sample of each class; None weights all alike.
    """

    def __init__(
        self,
        recipe: Recipe,
        teacher: Forward | None,
        distill_weight: float,
        temperature: float,
        class_weights: Tensor | None = None,
    ) -> None:
        self._smoothing, self._teacher = recipe.label_smoothing, teacher
        self._distill_weight, self._temperature = distill_weight, temperature
        self._class_weights = class_weights

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean loss of a batch, given the network's logits (B, classes)."""
        # The softmax ignores a constant added to all logits, so the gradients of that constant are
        # rounding errors, which Muon scales up to full steps: a few channels of a student then grow
        # until int8 can hardly resolve the others. See docs/decisions.md, centred logits.
        logits = logits - logits.mean(1, keepdim=True)
        loss = self._cross_entropy(logits, batch)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            teacher_logits = self._teacher(batch.x)
        student = F.log_softmax(logits / self._temperature, 1)
        teacher = F.log_softmax(teacher_logits / self._temperature, 1)
        weight = self._distill_weight * self._temperature**2
        divergence = self._kl_divergence(student, teacher, batch)
        return (1 - self._distill_weight) * loss + weight * divergence

    def _cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        is_mixed = batch.mixed_labels is not None and batch.lam is not None
        if not is_mixed and self._class_weights is None:
            return F.cross_entropy(logits, batch.labels, label_smoothing=self._smoothing)

        def of(labels: Tensor) -> Tensor:
            loss = F.cross_entropy(
                logits, labels, label_smoothing=self._smoothing, reduction="none"
            )
            return loss if self._class_weights is None else loss * self._class_weights[labels]

        return _interpolate(of, batch).mean()

    def _kl_divergence(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        weights = self._class_weights
        if weights is None:
            return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        per_sample = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return (per_sample * _interpolate(lambda labels: weights[labels], batch)).mean()


def _interpolate(of: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """(B,): `of` the labels and of the mixed labels, weighted by lambda."""
    own = of(batch.labels)
    if batch.mixed_labels is None or batch.lam is None:
        return own
    return torch.lerp(of(batch.mixed_labels), own, batch.lam)
