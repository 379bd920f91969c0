"""Number formats and throughput of a training."""

from __future__ import annotations

import contextlib
import functools
import time
from contextlib import AbstractContextManager

import torch

from lepton_automl.core.decisions import Decision
from lepton_automl.core.machine import processor_flags

_AMX_FLAG = "amx_bf16"
"""The processor feature with which bfloat16 products are faster than float32 ones."""
MIN_MEASURED_SECONDS = 1.0
"""No throughput is reported for trainings shorter than this."""


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Dtype of the factors of matrix products: bfloat16 on CUDA and with AMX, else float32.

    A fixed rule rather than a measurement, so that equal machines compute equal bits. Weights,
    sums, batch normalisation and losses are float32 in any case (mixed precision, Micikevicius et
    al. 2018, section 3, arXiv:1710.03740; bfloat16 needs no loss scaling).
    """
    is_fast = device.type == "cuda" or (device.type == "cpu" and _has_amx())
    return torch.bfloat16 if is_fast else torch.float32


def precision_decision(device: torch.device) -> Decision:
    """The arithmetic of trainings, and the property of the machine that decided it."""
    if device.type == "cuda":
        evidence = "trainings run on a CUDA device"
    else:
        evidence = f"the processor has {'' if _has_amx() else 'no '}{_AMX_FLAG}"
    is_short = matmul_dtype(device) == torch.bfloat16
    choice = "bfloat16 products, float32 sums and weights" if is_short else "float32"
    return Decision("training arithmetic", choice, evidence, "inferred", "", is_detail=True)


def arithmetic_name(device: torch.device) -> str:
    """Everything that decides the bits of a training, beside its inputs: equal names, equal bits.

    Such as `cpu AVX512 float32, torch 2.11.0`: device, kernels, dtype of products, version.
    """
    if device.type == "cuda":
        where = f"cuda {torch.cuda.get_device_name(device)}"
    else:
        where = f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
    dtype = str(matmul_dtype(device)).removeprefix("torch.")
    return f"{where} {dtype}, torch {torch.__version__}"


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
    return _AMX_FLAG in processor_flags()


class Throughput:
    """Measures samples per second from calls after every batch; starts after the first one.

    Parameters
    ----------
    batch_size : int
        Samples a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._first = self._last = (0, 0.0)

    def on_batch(self, done: int, total: int) -> None:
        """Record the time at which `done` batches are done."""
        del total
        self._last = (done, time.perf_counter())
        if not self._first[0]:
            self._first = self._last

    @property
    def seconds(self) -> float:
        """Seconds from the end of the first batch to that of the last one."""
        return self._last[1] - self._first[1]

    @property
    def samples_per_second(self) -> float:
        """Samples per second; 0 with fewer than two batches."""
        samples = (self._last[0] - self._first[0]) * self._batch_size
        return samples / self.seconds if samples else 0.0
