"""One step of a training: loss and gradients of a batch, and the weights moved by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lepton_automl.arithmetic import arithmetic
from lepton_automl.batches import Batch
from lepton_automl.loss import Forward, Loss
from lepton_automl.optimizers import Optimizer, Rate

Learn = Callable[[Iterable[Batch], Rate], Tensor]
"""Takes a step on a batch in pieces, at a share of the peak rate; its mean loss."""


class Stepper:
    """Takes steps.

    Parameters
    ----------
    run : callable
        The net, or what is trained around it.
    loss_of : Loss
        What is made small.
    optimizer : Optimizer
        Of the net's parameters.
    whole : float
        Pictures of a step of this process.
    """

    def __init__(self, run: Forward, loss_of: Loss, optimizer: Optimizer, whole: float) -> None:
        self._run, self._loss_of, self._whole = run, loss_of, whole
        self._optimizer = optimizer

    def __call__(self, pieces: Iterable[Batch], scale: Rate) -> Tensor:
        """Learn a batch in pieces at `scale` times the peak rate; its mean loss before that."""
        losses = [self._learn(batch) for batch in pieces]
        self._optimizer.step(scale)
        return torch.stack(losses).sum()

    def _learn(self, batch: Batch) -> Tensor:
        """Add a piece's gradients; its part of the mean loss over the step's pictures."""
        with arithmetic(batch.x.device):
            loss = self._loss_of(self._run(batch.x), batch) * (len(batch.labels) / self._whole)
        torch.autograd.backward(loss)
        return loss.detach()
