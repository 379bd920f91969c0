"""Averages of the weights along a training: what is kept at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

EMA_SHARE = 0.05
"""Of the batches, about how many of the last ones an exponential average reaches back over."""
LOOKAHEAD_EVERY, LOOKAHEAD_DECAY = 5, 0.95**5
"""Batches between two looks back; what the slow weights keep of themselves at the end."""


class Average:
    """`none`, `ema` or `lookahead` weights of one training.

    An exponential moving average trails behind the weights and replaces them at the end (Polyak
    and Juditsky 1992; Tarvainen and Valpola 2017, section 3.1). Lookahead sets the weights back
    to a slow copy every few batches, more firmly towards the end (Zhang et al. 2019,
    arXiv:1907.08610; the schedule is Jordan's, 2024, section 3.4, arXiv:2404.00498).

    Parameters
    ----------
    kind : str
        `none`, `ema` or `lookahead`.
    weights : sequence of Tensor
        Changed in place.
    steps : int
        Batches in all.
    """

    def __init__(self, kind: str, weights: Sequence[Tensor], steps: int) -> None:
        self._kind, self._weights, self._steps = kind, list(weights), steps
        self._slow = [] if kind == "none" else [w.detach().clone() for w in self._weights]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Batch number `step`, from 0, has moved the weights; the last one ends on the average."""
        done, is_last = step + 1, step + 1 == self._steps
        if self._kind == "ema":
            reach = max(1.0, min(EMA_SHARE * self._steps, done / 2))
            torch._foreach_lerp_(self._slow, self._weights, 1 / reach)
        if self._kind == "lookahead" and (is_last or done % LOOKAHEAD_EVERY == 0):
            kept = 1.0 if is_last else LOOKAHEAD_DECAY * (done / self._steps) ** 3
            torch._foreach_lerp_(self._slow, self._weights, 1 - kept)
        if self._slow and (is_last or (self._kind == "lookahead" and done % LOOKAHEAD_EVERY == 0)):
            torch._foreach_copy_(self._weights, self._slow)

    def state_dict(self) -> dict[str, Tensor]:
        """The slow weights."""
        return {str(number): slow for number, slow in enumerate(self._slow)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        for number, slow in enumerate(self._slow):
            slow.copy_(state_dict[str(number)])
