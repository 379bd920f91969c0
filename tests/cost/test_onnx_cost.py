"""Costs read off files against those our own graphs tell."""

from __future__ import annotations

import pytest

from lepton_automl.cost.cost import file_cost
from lepton_automl.cost.onnx_cost import onnx_cost
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch, random_model


@pytest.mark.parametrize("seed", range(6))
def test_float_files_of_ours_cost_what_their_graph_says(seed: int) -> None:
    model = random_model(random_arch(seed))
    file = float_onnx(model, [str(n) for n in range(model.arch.classes)], {})
    read, told = onnx_cost(file, 4), file_cost(model.arch, file, 4)
    assert (read.size_bytes, read.macs) == (told.size_bytes, told.macs)
    assert read.weight_bytes == told.weight_bytes


@pytest.mark.parametrize("seed", range(6))
def test_int8_files_of_ours_too(seed: int) -> None:
    arch = random_arch(seed)
    file = random_int8_onnx(arch, 127)
    read, told = onnx_cost(file, 1), file_cost(arch, file, 1)
    assert read.macs == told.macs
    assert read.weight_bytes == told.weight_bytes
    # Our own planner writes over what dies with an operation; here nothing is.
    assert told.peak_ram_bytes <= read.peak_ram_bytes <= 3 * told.peak_ram_bytes
