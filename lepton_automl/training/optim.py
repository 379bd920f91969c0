"""Optimizers (SGD, AdamW, Muon) and learning-rate schedules.

They call torch's fused kernels directly: torch.optim's classes take seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lepton_automl.training import muon
from lepton_automl.training.recipe import Recipe

_REFERENCE_BATCH = 64
"""The batch size that `Recipe.lr` refers to."""
LearningRate = float | Tensor
"""A number, or a tensor () on the device of the weights."""
Update = Callable[["ParamGroup", list[Tensor], LearningRate], None]
"""Updates the parameters of a group, given their gradients and the learning rate."""


@dataclass(frozen=True, eq=False)
class ParamGroup:
    """Parameters with one update rule and one weight decay, and their moments."""

    update: Update
    weight_decay: float
    parameters: list[Tensor]
    first_moments: list[Tensor] = field(init=False)
    """Momentum buffers, or AdamW's running means of gradients."""
    second_moments: list[Tensor] = field(init=False)
    """AdamW's running means of squared gradients."""
    steps: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("first_moments", "second_moments"):
            object.__setattr__(self, name, [torch.zeros_like(p) for p in self.parameters])
        steps = [torch.zeros((), device=p.device) for p in self.parameters]
        object.__setattr__(self, "steps", steps)


class Optimizer:
    """The optimizer of a recipe, without weight decay on norms and biases.

    Parameters
    ----------
    parameters : iterable of Tensor
        The weights; each must receive a gradient in every step.
    recipe : Recipe
        For its optimizer, learning rate and weight decay.
    batch_size : int
        Samples a step. The learning rate scales with it: linearly for SGD (Goyal et al. 2017,
        section 2.1, arXiv:1706.02677), with its square root for AdamW and Muon (Malladi et al.
        2022, section 4, arXiv:2205.10287).
    """

    def __init__(self, parameters: Iterable[Tensor], recipe: Recipe, batch_size: int) -> None:
        trained = [p for p in parameters if p.requires_grad]
        weights = [p for p in trained if p.ndim > 1]
        norms_and_biases = [p for p in trained if p.ndim <= 1]
        update = _sgd if recipe.optimizer == "sgd" else _adamw
        groups = [ParamGroup(update, 0.0, norms_and_biases)]
        if recipe.optimizer == "muon":
            matrices = [p for p in weights if muon.is_matrix(p)]
            weights = [p for p in weights if not muon.is_matrix(p)]
            groups.append(ParamGroup(_muon, recipe.weight_decay, matrices))
        groups.append(ParamGroup(update, recipe.weight_decay, weights))
        self.groups = [group for group in groups if group.parameters]
        ratio = batch_size / _REFERENCE_BATCH
        self.lr = recipe.lr * (ratio if recipe.optimizer == "sgd" else math.sqrt(ratio))

    @torch.no_grad()
    def step(self, lr_scale: LearningRate) -> None:
        """Update the parameters at `lr_scale` times the peak rate and clear their gradients."""
        for group in self.groups:
            gradients = [p.grad for p in group.parameters if p.grad is not None]
            group.update(group, gradients, self.lr * lr_scale)
            for parameter in group.parameters:
                parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """All moments and step counts, by name."""
        return {
            f"{number}.{name}.{index}": tensor
            for number, group in enumerate(self.groups)
            for name in ("first_moments", "second_moments", "steps")
            for index, tensor in enumerate(getattr(group, name))
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name])


def lr_schedule(name: str, steps: int) -> list[float]:
    """Learning rate of every step as a share of the peak: linear warm-up, then decay to near 0."""
    warmup = {"onecycle": 0.25, "cosine": 0.02, "trapezoid": 0.1}[name]
    scale = []
    for step in range(steps):
        now = (step + 0.5) / steps
        left = (1 - now) / (1 - warmup)
        if now < warmup:
            scale.append(now / warmup)
        elif name == "trapezoid":
            scale.append(min(1.0, left / 0.4))
        else:
            scale.append(0.5 * (1 - math.cos(math.pi * left)))
    return scale


def _sgd(group: ParamGroup, gradients: list[Tensor], lr: LearningRate) -> None:
    """SGD with Nesterov momentum 0.9."""
    sgd(
        group.parameters,
        gradients,
        list(group.first_moments),
        fused=True,
        weight_decay=group.weight_decay,
        momentum=0.9,
        lr=lr,  # type: ignore[arg-type]  # fused kernels take a tensor as well
        dampening=0.0,
        nesterov=True,
        maximize=False,
    )


def _adamw(group: ParamGroup, gradients: list[Tensor], lr: LearningRate) -> None:
    """AdamW: decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    adamw(
        group.parameters,
        gradients,
        group.first_moments,
        group.second_moments,
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


def _muon(group: ParamGroup, gradients: list[Tensor], lr: LearningRate) -> None:
    muon.muon_update(group.parameters, gradients, group.first_moments, lr, group.weight_decay)
