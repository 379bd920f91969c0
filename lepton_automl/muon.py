"""Muon: matrices move along their orthogonalised momentum, everything else by AdamW."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOMENTUM = 0.95
ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that bring every singular value near 1 soonest, to between 0.7 and 1.2."""
LIKE_ADAMW = 0.2
"""Root mean square of an AdamW step at the same rate, so that both take the same rates."""


def is_matrix(parameter: Tensor) -> bool:
    """Whether a weight mixes inputs to outputs; a depthwise filter has one input each."""
    return parameter.ndim > 1 and parameter.shape[1] > 1


def step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    lr: float,
    weight_decay: float,
) -> None:
    """Move `parameters` in place (Jordan et al. 2024, "Muon"; scale and decay: Liu et al. 2025).

    A convolution (O, I, k, k) counts as a matrix (O, I k k). The update is as long as AdamW's
    (Liu et al. 2025, section 2.2, arXiv:2502.16982) and weight decay is decoupled. Matrices of
    one shape are orthogonalised together.
    """
    torch._foreach_lerp_(list(momenta), list(gradients), 1 - MOMENTUM)
    ahead = torch._foreach_lerp(list(gradients), list(momenta), MOMENTUM)  # Nesterov's.
    by_shape: dict[tuple[int, int], list[int]] = {}
    for number, each in enumerate(ahead):
        by_shape.setdefault((len(each), each[0].numel()), []).append(number)
    for shape, numbers in by_shape.items():
        stack = torch.stack([ahead[n].reshape(shape) for n in numbers])
        move = orthogonal(stack) * (LIKE_ADAMW * max(shape) ** 0.5 * lr)
        for number, each in zip(numbers, move, strict=True):
            weight = parameters[number]
            weight.mul_(1 - lr * weight_decay).sub_(each.view(weight.shape))


def orthogonal(stack: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, of (N, rows, columns).

    A Newton-Schulz iteration on the singular values (Bernstein and Newhouse 2024,
    arXiv:2409.20325). Every round multiplies X by a polynomial of X X', so the rounds are made on
    that small square alone, and X is multiplied once by all of them: two fifths of the arithmetic
    for a 3x3 convolution.
    """
    a, b, c = QUINTIC
    is_tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if is_tall else stack
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    square, one = x @ x.mT, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    product = one.expand_as(square)
    for _ in range(ROUNDS):
        factor = torch.baddbmm(b * square, square, square, alpha=c) + a * one
        product = factor @ product
        square = factor @ square @ factor
    found = product @ x
    return found.mT if is_tall else found
