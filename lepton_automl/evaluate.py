"""What a model or a written file answers: logits, probabilities, which samples are right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lepton_automl import onnxfile
from lepton_automl.model import Model

if TYPE_CHECKING:
    from lepton_automl.dataset import Labelled

Turn = Callable[[], AbstractContextManager[None]]
"""Entered around every batch, so that somebody else can have the machine to himself."""


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` itself, moved to `device` with channels last in memory, as kernels like it."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


@torch.inference_mode()
def predict_logits(
    model: Model,
    pixels: Tensor,
    batch: int = 256,
    device: torch.device | None = None,
    turn: Turn = contextlib.nullcontext,
) -> Tensor:
    """Logits of the float network.

    Parameters
    ----------
    model : Model
        Any model; quantization parameters are not used.
    pixels : Tensor
        uint8 (N, H, W, C), N at least 0.
    batch : int
        Pictures at once; it bounds the memory, not the result.
    device : torch.device, optional
        Where to compute; the CPU by default.
    turn : callable
        Entered around every batch, so that somebody else can have the machine to himself.

    Returns
    -------
    Tensor
        float32 (N, classes) on the CPU.
    """
    device = device or torch.device("cpu")
    network = placed(model.network(), device)
    parts = []
    for part in torch.split(pixels, batch) if len(pixels) else ():
        with turn():
            parts.append(network(model.preprocessing.apply(part.to(device))).float().cpu())
    return torch.cat(parts) if parts else torch.zeros(0, model.arch.classes)


def accuracy(
    model: Model,
    data: Labelled,
    batch: int = 256,
    device: torch.device | None = None,
    turn: Turn = contextlib.nullcontext,
) -> np.ndarray:
    """Which samples the float network gets right: bool (N,); the mean is the accuracy."""
    logits = predict_logits(model, data.pixels, batch=batch, device=device, turn=turn)
    right: np.ndarray = (logits.argmax(1) == data.labels.cpu()).numpy()
    return right


def onnx_probabilities(file: bytes, pixels: Tensor | np.ndarray, batch: int = 64) -> np.ndarray:
    """Probabilities a written file gives in ONNX Runtime.

    Parameters
    ----------
    file : bytes
        An ONNX file as `onnxfile.Writer` writes it.
    pixels : Tensor or ndarray
        uint8 (N, H, W, C).
    batch : int
        Pictures at once.

    Returns
    -------
    ndarray
        float32 (N, classes).
    """
    array = pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels
    return onnxfile.probabilities(onnxfile.session(file), array, batch)
