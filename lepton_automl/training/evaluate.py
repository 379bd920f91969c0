"""Predict with a float model or an ONNX file: logits, probabilities, correct samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lepton_automl.models.model import Model
from lepton_automl.training.memory import evaluation_batch

if TYPE_CHECKING:
    from lepton_automl.data.dataset import LabelledTensors


TrainingSlot = Callable[[], AbstractContextManager[None]]
"""Returns a context manager for one batch: workers wait in it while a latency is measured."""


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move `network` in place to `device`, channels last in memory, and return it."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


@torch.inference_mode()
def predict_logits(
    model: Model,
    pixels: Tensor,
    batch: int = 256,
    device: torch.device | None = None,
    training_slot: TrainingSlot = contextlib.nullcontext,
) -> Tensor:
    """Logits of the float network.

    Parameters
    ----------
    model : Model
        Its quantization parameters are not used.
    pixels : Tensor
        uint8 (N, H, W, C), N at least 0.
    batch : int
        Samples at once at most, fewer of large pictures (`memory.evaluation_batch`).
    device : torch.device, optional
        Where to compute; the CPU by default.
    training_slot : callable
        Returns a context manager that is entered around every batch.

    Returns
    -------
    Tensor
        float32 (N, classes) on the CPU.
    """
    device = device or torch.device("cpu")
    network = to_device(model.network(), device)
    logits, batch = [], evaluation_batch(model.arch.graph, batch)
    for chunk in torch.split(pixels, batch) if len(pixels) else ():
        with training_slot():
            logits.append(network(model.preprocessing.apply(chunk.to(device))).float().cpu())
    return torch.cat(logits) if logits else torch.zeros(0, model.arch.classes)


def is_correct(
    model: Model,
    data: LabelledTensors,
    batch: int = 256,
    device: torch.device | None = None,
    training_slot: TrainingSlot = contextlib.nullcontext,
) -> np.ndarray:
    """Whether the float network predicts each label: bool (N,); the mean is the accuracy."""
    logits = predict_logits(
        model, data.pixels, batch=batch, device=device, training_slot=training_slot
    )
    correct: np.ndarray = (logits.argmax(1) == data.labels.cpu()).numpy()
    return correct
