"""Muon: matrices move along their orthogonalised momentum, everything else by AdamW."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MOMENTUM = 0.95
ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that bring every singular value near 1 soonest, to between 0.7 and 1.2."""
LEAST_SIZE = 32
"""Smaller squares are padded to this, larger ones to the next power of two."""
LIKE_ADAMW = 0.2
"""Root mean square of an AdamW step at the same rate, so that both take the same rates."""


def is_matrix(parameter: Tensor) -> bool:
    """Whether a weight mixes inputs to outputs; a depthwise filter has one input each."""
    return parameter.ndim > 1 and parameter.shape[1] > 1


def step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    lr: float | Tensor,
    weight_decay: float,
) -> None:
    """Move `parameters` in place (Jordan et al. 2024, "Muon"; scale and decay: Liu et al. 2025).

    A convolution (O, I, k, k) counts as a matrix (O, I k k). The update is as long as AdamW's
    (Liu et al. 2025, section 2.2, arXiv:2502.16982) and weight decay is decoupled.
    """
    torch._foreach_lerp_(list(momenta), list(gradients), 1 - MOMENTUM)
    ahead = torch._foreach_lerp(list(gradients), list(momenta), MOMENTUM)  # Nesterov's.
    moves = orthogonal([each.reshape(len(each), -1) for each in ahead])
    for weight, move in zip(parameters, moves, strict=True):
        length = LIKE_ADAMW * max(move.shape) ** 0.5 * lr
        weight.mul_(1 - lr * weight_decay).sub_(move.view(weight.shape) * length)


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The nearest semi-orthogonal matrices, roughly.

    A Newton-Schulz iteration on the singular values (Bernstein and Newhouse 2024,
    arXiv:2409.20325). Every round multiplies X by a polynomial of X X', so the rounds are made on
    these small squares alone, those of about one size together, and X is multiplied once by all of
    them: a third to a half of the time of the rounds on X.
    """
    wide = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    by_size: dict[int, list[int]] = {}
    for number, x in enumerate(wide):
        size = max(LEAST_SIZE, 1 << (len(x) - 1).bit_length())
        by_size.setdefault(size, []).append(number)
    found = list(wide)
    for size, numbers in by_size.items():
        squares = [wide[n] @ wide[n].mT for n in numbers]
        factors = _factors(torch.stack([_padded(square, size) for square in squares]))
        for n, factor in zip(numbers, factors, strict=True):
            found[n] = factor[: len(wide[n]), : len(wide[n])] @ wide[n]
    return [y.mT if m.shape[0] > m.shape[1] else y for y, m in zip(found, matrices, strict=True)]


def _factors(squares: Tensor) -> Tensor:
    """What to multiply each X by, (N, n, n), from X X'."""
    a, b, c = QUINTIC
    norm = squares.diagonal(dim1=1, dim2=2).sum(1).sqrt()[:, None, None] + 1e-7
    square = squares / norm.square()
    one = a * torch.eye(squares.shape[1], dtype=squares.dtype, device=squares.device)
    factors = one.expand_as(squares) / (a * norm)
    for _ in range(ROUNDS):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c) + one
        factors = factor @ factors
        square = factor @ square @ factor
    return factors


def _padded(square: Tensor, size: int) -> Tensor:
    return F.pad(square, (0, size - len(square), 0, size - len(square)))
