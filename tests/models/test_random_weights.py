from __future__ import annotations

import numpy as np
import onnx
import pytest

from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.cost.cost import static_cost
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.random_weights import random_int8_onnx, random_qparams
from tests.helpers.nets import random_arch, random_model, random_pixels

ANY = ("relu", "relu6", "hswish", "silu", "none")
LABELS = list("01234")
SMALL = chain((8, 8, 1), [Stem(8), Head()], 5)


@pytest.mark.parametrize("seed", range(8))
def test_random_weights_make_a_file_as_large_as_real_ones(seed):
    arch = random_arch(seed, activations=ANY)
    model = fold_batchnorm(random_model(arch, seed))
    pixels = random_pixels(arch, 32, seed)
    real = int8_onnx(quantize(model, calibrate(model, pixels), 64), LABELS, {})
    assert static_cost(arch, 64).size_bytes == pytest.approx(len(real), rel=0.02, abs=60)


def test_random_values_neither_vanish_nor_saturate():
    lively = []
    for seed in range(6):
        arch = random_arch(seed, activations=ANY)
        model = onnx.ModelProto.FromString(random_int8_onnx(arch, 64, seed))
        names = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
        for name in names:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, 2, None))
        pixels = random_pixels(arch, 8, seed).numpy()
        for value in open_session(model.SerializeToString()).run(names, {"pixels": pixels}):
            lively.append(((value > 0) & (value < 255)).mean() > 0.1 and np.unique(value).size > 3)
    assert np.mean(lively) > 0.95


def test_weights_use_the_whole_limit_and_no_more():
    for limit in (7, 64, 127):
        drawn = random_qparams(random_arch(3), 0, limit).weights
        assert max(abs(w.astype(int)).max() for w in drawn.values()) == limit


def test_random_parameters_depend_on_the_seed_only():
    assert random_int8_onnx(SMALL, 64, 1) == random_int8_onnx(SMALL, 64, 1)
    assert random_int8_onnx(SMALL, 64, 1) != random_int8_onnx(SMALL, 64, 2)
