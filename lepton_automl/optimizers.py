"""SGD, AdamW and Muon on torch's fused kernels: torch.optim's classes take seconds to import."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lepton_automl import muon
from lepton_automl.recipe import Recipe

LR_BATCH = 64
"""The batch size that `Recipe.lr` is meant for."""


Rate = float | Tensor
"""A number, or one on the device of the weights."""
Update = Callable[["Group", list[Tensor], Rate], None]
"""Moves the parameters of a group, given their gradients and the learning rate."""


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that move by one rule under one weight decay, with their moments."""

    update: Update
    weight_decay: float
    parameters: list[Tensor]
    first: list[Tensor] = field(init=False)
    """Momentum, or a running mean of gradients."""
    second: list[Tensor] = field(init=False)
    """AdamW's running mean of squared gradients."""
    steps: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            object.__setattr__(self, name, [torch.zeros_like(p) for p in self.parameters])
        steps = [torch.zeros((), device=p.device) for p in self.parameters]
        object.__setattr__(self, "steps", steps)


class Optimizer:
    """The optimiser of a recipe; norms and biases are not decayed.

    Parameters
    ----------
    parameters : iterable of Tensor
        What to train; every one must receive a gradient in every step.
    recipe : Recipe
        Kind, learning rate and weight decay.
    batch : int
        Samples a step. The learning rate follows it, in proportion for SGD (Goyal et al. 2017,
        section 2.1, arXiv:1706.02677), as its root for AdamW and Muon (Malladi et al. 2022,
        section 4, arXiv:2205.10287).
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, batch: int) -> None:
        trained = [p for p in parameters if p.requires_grad]
        weights, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        rest = _sgd if recipe.optimizer == "sgd" else _adamw
        groups = [Group(rest, 0.0, others)]
        if recipe.optimizer == "muon":
            matrices = [p for p in weights if muon.is_matrix(p)]
            weights = [p for p in weights if not muon.is_matrix(p)]
            groups.append(Group(_muon, recipe.weight_decay, matrices))
        groups.append(Group(rest, recipe.weight_decay, weights))
        self.groups = [group for group in groups if group.parameters]
        ratio = batch / LR_BATCH
        self.lr = recipe.lr * (ratio if recipe.optimizer == "sgd" else math.sqrt(ratio))

    @torch.no_grad()
    def step(self, scale: Rate) -> None:
        """Move the parameters at `scale` times the peak rate and forget their gradients."""
        for group in self.groups:
            gradients = [p.grad for p in group.parameters if p.grad is not None]
            group.update(group, gradients, self.lr * scale)
            for parameter in group.parameters:
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All moments, by name."""
        return {
            f"{number}.{name}.{place}": tensor
            for number, group in enumerate(self.groups)
            for name in ("first", "second", "steps")
            for place, tensor in enumerate(getattr(group, name))
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def schedule(name: str, steps: int) -> list[float]:
    """Learning rate of every step as a share of the peak: up, then down to nearly nothing."""
    rise = {"onecycle": 0.25, "cosine": 0.02, "trapezoid": 0.1}[name]
    scale = []
    for step in range(steps):
        now = (step + 0.5) / steps
        left = (1 - now) / (1 - rise)
        if now < rise:
            scale.append(now / rise)
        elif name == "trapezoid":
            scale.append(min(1.0, left / 0.4))
        else:
            scale.append(0.5 * (1 - math.cos(math.pi * left)))
    return scale


def _sgd(group: Group, gradients: list[Tensor], lr: Rate) -> None:
    """Nesterov momentum 0.9."""
    sgd(
        group.parameters,
        gradients,
        list(group.first),
        fused=True,
        weight_decay=group.weight_decay,
        momentum=0.9,
        lr=lr,  # type: ignore[arg-type]  # fused kernels take a tensor as well
        dampening=0.0,
        nesterov=True,
        maximize=False,
    )


def _adamw(group: Group, gradients: list[Tensor], lr: Rate) -> None:
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    adamw(
        group.parameters,
        gradients,
        group.first,
        group.second,
        [],
        group.steps,
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=lr,
        weight_decay=group.weight_decay,
        eps=1e-8,
        maximize=False,
    )


def _muon(group: Group, gradients: list[Tensor], lr: Rate) -> None:
    muon.step(group.parameters, gradients, group.first, lr, group.weight_decay)
