"""Number formats of a training: bfloat16 where the device has fast kernels for it."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager

import torch

from lepton_automl.machine import this_machine

_AMX_FLAG = "amx_bf16"
"""The processor feature with which bfloat16 products are faster than float32 ones."""


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Dtype of the factors of matrix products: bfloat16 on CUDA and with AMX, else float32.

    A fixed rule rather than a measurement, so that equal machines compute equal bits. Weights,
    sums, batch normalisation and losses are float32 in any case (mixed precision, Micikevicius et
    al. 2018, section 3, arXiv:1710.03740; bfloat16 needs no loss scaling).
    """
    is_fast = device.type == "cuda" or (device.type == "cpu" and _has_amx())
    return torch.bfloat16 if is_fast else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context of a training's forward pass: `torch.autocast` to `matmul_dtype`."""
    dtype = matmul_dtype(device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Context for float32 inside `autocast`, as quantization-aware training needs it."""
    return torch.autocast(device.type, enabled=False)


@functools.cache
def _has_amx() -> bool:
    return _AMX_FLAG in this_machine().flags
