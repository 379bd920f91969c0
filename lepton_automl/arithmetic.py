"""Arithmetic: in which numbers a training multiplies, by what its device is good at."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager

import torch

from lepton_automl.machine import this_machine

TILES = "amx_bf16"
"""The processor feature that makes bfloat16 products faster than float32 ones."""


def number_type(device: torch.device) -> torch.dtype:
    """Of large products' factors: bfloat16 on CUDA and on processors with tiles, else float32.

    A rule and no measurement, so that equal machines compute equal bits. Weights, sums, batch
    normalisation and losses are float32 in any case (Micikevicius et al. 2018, section 3,
    arXiv:1710.03740; bfloat16 needs no scaling of the loss).
    """
    is_fast = device.type == "cuda" or (device.type == "cpu" and _has_tiles())
    return torch.bfloat16 if is_fast else torch.float32


def arithmetic(device: torch.device) -> AbstractContextManager[object]:
    """Entered around forward passes of a training."""
    dtype = number_type(device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Entered where float32 is needed within `arithmetic`, as by what imitates integers."""
    return torch.autocast(device.type, enabled=False)


@functools.cache
def _has_tiles() -> bool:
    return TILES in this_machine().flags
