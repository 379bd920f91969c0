"""One training step: the gradients of a batch and the update of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lepton_automl.arithmetic import autocast
from lepton_automl.batches import Batch
from lepton_automl.loss import Forward, Loss
from lepton_automl.optimizers import LearningRate, Optimizer

StepFunction = Callable[[Iterable[Batch], LearningRate], Tensor]
"""(micro-batches of a batch, share of the peak learning rate) -> mean loss of the batch."""


class TrainStep:
    """A training step with gradient accumulation over micro-batches.

    Parameters
    ----------
    forward : callable
        Computes logits of normalised pixels.
    loss : Loss
        Of the logits.
    optimizer : Optimizer
        Of the trained parameters.
    samples : float
        Samples of a step in this process: the divisor of the summed losses.
    """

    def __init__(self, forward: Forward, loss: Loss, optimizer: Optimizer, samples: float) -> None:
        self._forward, self._loss, self._samples = forward, loss, samples
        self._optimizer = optimizer

    def __call__(self, micro_batches: Iterable[Batch], lr_scale: LearningRate) -> Tensor:
        """Update the weights at `lr_scale` times the peak rate; the mean loss before that."""
        losses = [self._backward(batch) for batch in micro_batches]
        self._optimizer.step(lr_scale)
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch) -> Tensor:
        """Add the gradients of a micro-batch; its share of the mean loss of the step."""
        with autocast(batch.x.device):
            share = len(batch.labels) / self._samples
            loss = self._loss(self._forward(batch.x), batch) * share
        torch.autograd.backward(loss)
        return loss.detach()
