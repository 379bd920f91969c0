"""One training step: eager, or recorded as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_automl.training.loader import Batch
from lepton_automl.training.loss import Forward, Loss
from lepton_automl.training.optim import LearningRate, Optimizer
from lepton_automl.training.precision import autocast

StepFunction = Callable[[Iterable[Batch], LearningRate], Tensor]
"""(micro-batches of a batch, share of the peak learning rate) -> mean loss of the batch."""
_WARMUP_STEPS = 3
"""Eager steps of a kind before one is captured: in the first ones libraries choose kernels."""
_TOLERANCE = 0.02
"""Largest distance of a replayed step from the eager one, relative to the length of the step:
sums are taken in another order, in bfloat16."""
CaptureFunction = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Captures a function without running it: returns its replay and the tensor of its result."""
StateFunction = Callable[[], Mapping[str, Tensor]]
"""Returns all tensors that a step changes in place, by name."""


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


@dataclass(frozen=True)
class CapturedStep:
    """A captured step with the tensors that it reads and writes."""

    batch: Batch
    lr_scale: Tensor
    loss: Tensor
    replay: Callable[[], None]


class CudaGraphStep:
    """A training step that replays a captured CUDA graph after some eager steps.

    Batches with and without mixed samples are captured separately.

    Parameters
    ----------
    step : callable
        The eager step; it is captured, and runs where capture fails. It must accept a learning
        rate that is a tensor on the device.
    state : callable
        Returns what the step changes.
    capture : callable, optional
        `capture_cuda_graph` by default.
    """

    def __init__(
        self, step: StepFunction, state: StateFunction, capture: CaptureFunction | None = None
    ) -> None:
        self._step, self._state, self._capture_function = step, state, capture or capture_cuda_graph
        self._eager_steps: dict[bool, int] = {}
        self._captured: dict[bool, CapturedStep] = {}
        self.is_disabled = False

    def __call__(self, micro_batches: Iterable[Batch], lr_scale: LearningRate) -> Tensor:
        """As `TrainStep`; the batch must come as one micro-batch."""
        (batch,) = micro_batches
        is_mixed = batch.mixed_labels is not None
        captured = self._captured.get(is_mixed)
        if captured is not None:
            return _replay(captured, batch, lr_scale)
        self._eager_steps[is_mixed] = self._eager_steps.get(is_mixed, 0) + 1
        if self.is_disabled or self._eager_steps[is_mixed] <= _WARMUP_STEPS:
            return self._step([batch], lr_scale)
        return self._capture_checked(batch, lr_scale, is_mixed)

    def _capture_checked(self, batch: Batch, lr_scale: LearningRate, is_mixed: bool) -> Tensor:
        """Run an eager step, capture it, and replay it from the same start for comparison."""
        before = _cloned(self._state())
        loss = self._step([batch], lr_scale)
        eager = _cloned(self._state())
        _restore(self._state(), before)
        try:
            captured = self._capture(batch, lr_scale)
            _replay(captured, batch, lr_scale)
            error = _relative_error(before, eager, self._state())
        except RuntimeError as failure:
            self._disable(f"capture failed ({failure})")
        else:
            if error <= _TOLERANCE:
                self._captured[is_mixed] = captured
            else:
                self._disable(f"its replay differs by {error:.1%}")
        _restore(self._state(), eager)
        return loss

    def _disable(self, reason: str) -> None:
        self.is_disabled = True
        warnings.warn(f"the training step is not replayed as a CUDA graph: {reason}", stacklevel=2)

    def _capture(self, batch: Batch, lr_scale: LearningRate) -> CapturedStep:
        mixed_labels, lam = (None if t is None else t.clone() for t in batch[2:])
        own = Batch(batch.x.clone(), batch.labels.clone(), mixed_labels, lam)
        rate = torch.full((), float(lr_scale), device=batch.x.device)
        replay, loss = self._capture_function(lambda: self._step([own], rate))
        return CapturedStep(own, rate, loss, replay)


def capture_cuda_graph(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture `work` on the current CUDA device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


def _replay(captured: CapturedStep, batch: Batch, lr_scale: LearningRate) -> Tensor:
    for own, given in zip(captured.batch, batch, strict=True):
        if own is not None and given is not None:
            own.copy_(given)
    captured.lr_scale.fill_(float(lr_scale))
    captured.replay()
    return captured.loss.clone()


def _cloned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


@torch.no_grad()
def _restore(state: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        tensor.copy_(saved[name])


def _relative_error(
    before: Mapping[str, Tensor], eager: Mapping[str, Tensor], replayed: Mapping[str, Tensor]
) -> float:
    """Distance of the replayed from the eager state, relative to the length of the step."""
    names = [name for name, tensor in eager.items() if tensor.is_floating_point()]
    error = sum(float((replayed[n] - eager[n]).double().square().sum()) for n in names)
    length = sum(float((eager[n] - before[n]).double().square().sum()) for n in names)
    return (error / length) ** 0.5 if length else float(error > 0)
