"""Captured steps: on a GPU the kernels of a small net's step are launched at once, as one graph.

Such kernels run for microseconds, and Python takes longer to launch them. A step is recorded once
(a CUDA graph) and replayed on batches that are copied to where the first one was. Nothing is taken
on trust: the first replay must move the weights as the step itself did, or no graph is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_automl.batches import Batch
from lepton_automl.optimizers import Rate
from lepton_automl.stepping import Learn

WARM_UP = 3
"""Steps of a kind before one is recorded: libraries choose their kernels in the first ones."""
TOLERANCE = 0.02
"""How far a replayed step may end from the step itself, as a share of its way: sums in another
order, in bfloat16."""

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Records what a function would do, without doing it: how to replay it, and where its result is."""
State = Callable[[], Mapping[str, Tensor]]
"""Everything that a step changes, in place, by name."""


@dataclass(frozen=True)
class Recorded:
    """A step, and where it reads and writes."""

    batch: Batch
    scale: Tensor
    loss: Tensor
    replay: Callable[[], None]


class Captured:
    """Takes the steps of a `Stepper`, most of them by replaying a recorded one.

    Parameters
    ----------
    step : callable
        A `Stepper`: what is recorded, and what takes the steps where that fails. Its rate may be a
        tensor on the device.
    state : callable
        What the step changes.
    record : callable, optional
        A CUDA graph where it is left out.
    """

    def __init__(self, step: Learn, state: State, record: Recorder | None = None) -> None:
        self._step, self._state, self._record = step, state, record or cuda_graph
        self._seen: dict[bool, int] = {}
        self._recorded: dict[bool, Recorded] = {}
        self.is_given_up = False

    def __call__(self, pieces: Iterable[Batch], scale: Rate) -> Tensor:
        """As of `Stepper`."""
        (batch,) = pieces
        is_mixed = batch.others is not None
        known = self._recorded.get(is_mixed)
        if known is not None:
            return _replayed(known, batch, scale)
        self._seen[is_mixed] = self._seen.get(is_mixed, 0) + 1
        if self.is_given_up or self._seen[is_mixed] <= WARM_UP:
            return self._step([batch], scale)
        return self._first(batch, scale, is_mixed)

    def _first(self, batch: Batch, scale: Rate, is_mixed: bool) -> Tensor:
        """Take a step, record it, replay it from where it began: both must end at one place."""
        before = _copied(self._state())
        loss = self._step([batch], scale)
        wanted = _copied(self._state())
        _restore(self._state(), before)
        try:
            known = self._recording(batch, scale)
            _replayed(known, batch, scale)
            far = _distance(before, wanted, self._state())
        except RuntimeError as error:
            return self._given_up(wanted, loss, f"could not be recorded ({error})")
        if not far <= TOLERANCE:
            return self._given_up(wanted, loss, f"ended {far:.1%} of its way from itself")
        self._recorded[is_mixed] = known
        _restore(self._state(), wanted)
        return loss

    def _recording(self, batch: Batch, scale: Rate) -> Recorded:
        others, kept = (None if each is None else each.clone() for each in batch[2:])
        own = Batch(batch.x.clone(), batch.labels.clone(), others, kept)
        rate = torch.full((), float(scale), device=batch.x.device)
        replay, loss = self._record(lambda: self._step([own], rate))
        return Recorded(own, rate, loss, replay)

    def _given_up(self, wanted: Mapping[str, Tensor], loss: Tensor, why: str) -> Tensor:
        warnings.warn(f"a training step {why}: it is launched anew each time", stacklevel=2)
        self.is_given_up = True
        _restore(self._state(), wanted)
        return loss


def cuda_graph(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record `work` on the current CUDA device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


def _replayed(known: Recorded, batch: Batch, scale: Rate) -> Tensor:
    for own, given in zip(known.batch, batch, strict=True):
        if own is not None and given is not None:
            own.copy_(given)
    known.scale.fill_(float(scale))
    known.replay()
    return known.loss.clone()


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


@torch.no_grad()
def _restore(state: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        tensor.copy_(kept[name])


def _distance(
    before: Mapping[str, Tensor], wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> float:
    """How far what is given is from what is wanted, as a share of the way there."""
    moving = [name for name, tensor in wanted.items() if tensor.is_floating_point()]
    away = sum(float((given[n] - wanted[n]).double().square().sum()) for n in moving)
    way = sum(float((wanted[n] - before[n]).double().square().sum()) for n in moving)
    return (away / way) ** 0.5 if way else float(away > 0)
