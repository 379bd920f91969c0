from __future__ import annotations

import time

import pytest
import torch
from torch.nn import functional as F

from lepton_automl.core.machine import processor_flags
from lepton_automl.training import precision
from lepton_automl.training.precision import Throughput, full_precision, matmul_dtype

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["plain", "tiles"])
def has_tiles(request, monkeypatch):
    monkeypatch.setattr(precision, "_has_amx", lambda: request.param)
    return request.param


def convolved():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    return F.conv2d(x, weight), F.conv2d(x.double(), weight.double())


def test_products_are_bfloat16_on_processors_with_amx(has_tiles):
    with precision.autocast(CPU):
        found, wanted = convolved()
    assert found.dtype == matmul_dtype(CPU) == (torch.bfloat16 if has_tiles else torch.float32)
    error = (found.double() - wanted).abs().max() / wanted.abs().max()
    assert error < (2**-7 if has_tiles else 1e-6)


def test_full_precision_is_float32_inside_autocast(has_tiles):
    with precision.autocast(CPU), full_precision(CPU):
        found, wanted = convolved()
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), wanted, atol=1e-4)


def test_the_rule_reads_the_list_of_processors(tmp_path, monkeypatch):
    for flags, wanted in (("avx512f amx_bf16 amx_tile", True), ("avx512f avx512_bf16", False)):
        listed = tmp_path / "cpuinfo"
        listed.write_text(f"model name\t: x\nflags\t\t: {flags}\n")
        found = processor_flags(listed)
        monkeypatch.setattr(precision, "processor_flags", lambda found=found: found)
        precision._has_amx.cache_clear()
        assert precision._has_amx() is wanted
    precision._has_amx.cache_clear()


def test_cuda_multiplies_in_bfloat16():
    assert matmul_dtype(torch.device("cuda")) == torch.bfloat16


def walked(steps, seconds, batch=10, monkeypatch=None):
    now = iter(100 + seconds * n / (steps - 1) for n in range(steps))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    walk = Throughput(batch)
    for step in range(steps):
        walk.on_batch(step + 1, steps)
    return walk


def test_pictures_are_counted_from_the_first_batch_on(monkeypatch):
    walk = walked(21, 4.0, monkeypatch=monkeypatch)
    assert walk.seconds == pytest.approx(4.0)
    assert walk.samples_per_second == pytest.approx(20 * 10 / 4)


def test_one_batch_has_no_throughput():
    walk = Throughput(8)
    assert walk.samples_per_second == 0
    walk.on_batch(1, 1)
    assert walk.samples_per_second == 0
