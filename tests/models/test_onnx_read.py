from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.core import plugins
from lepton_automl.errors import DataError
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_read import read_int8
from lepton_automl.models.random_weights import random_net
from tests.helpers.nets import random_arch

ALL = ("relu", "relu6", "hswish", "silu", "none")
SHAPES = [(16, 16, 1), (16, 16, 3), (12, 14, 5), (37, 6)]
MIDDLE = [name for name in plugins.names("layers") if name not in {"stem", "head"}]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_net_that_is_read_back_gives_the_same_file(shape):
    for seed, layer in enumerate(MIDDLE):
        arch = random_arch(seed, input=shape, activations=ALL, layers=(layer,))
        net, names = random_net(arch, 64, seed), ("a", "ä\n", '"', "d", "e")
        file = int8_onnx(net, names, {"dataset": "x", "target": "y"})
        found = read_int8(file, arch)
        assert found.class_names == names
        assert found.metadata == {"dataset": "x", "target": "y"}
        assert found.preprocessing == net.preprocessing
        for name, weights in net.qparams.weights.items():
            assert np.array_equal(found.qparams.weights[name], weights)
        assert int8_onnx(found, found.class_names, found.metadata) == file


def test_a_file_of_another_architecture_is_refused():
    arch, other = (random_arch(seed, activations=ALL) for seed in (1, 2))
    file = int8_onnx(random_net(arch, 64), list("abcde"), {})
    with pytest.raises(DataError, match="not of its architecture"):
        read_int8(file, other)
