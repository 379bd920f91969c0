from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from lepton_automl.compress.external.equalization import chains, equalize_onnx
from lepton_automl.compress.external.quantize import Quantizer
from tests.compress.test_external_interface import predict_file, wrap
from tests.helpers import external_models as models


def test_the_function_stays_and_channels_become_alike() -> None:
    pixels, _ = models.pictures(64)
    wild = wrap(models.uneven(1.4)).file
    equalized = equalize_onnx(wild, pixels)
    assert equalized != wild
    fresh, _ = models.pictures(64, seed=9)
    assert np.abs(predict_file(equalized, fresh) - predict_file(wild, fresh)).max() < 1e-4


def test_what_uneven_channels_break_is_mended_without_training() -> None:
    pixels, labels = models.pictures(150, seed=1)
    train, _ = models.pictures(128)
    found = wrap(models.uneven(2.5, seed=3))
    whole = (predict_file(found.file, pixels).argmax(1) == labels).mean()
    broken = Quantizer(train, 127)(found)
    equalized = type(found)(equalize_onnx(found.file, train), *list(vars(found).values())[1:])
    mended = Quantizer(train, 127)(equalized)
    lost, left = (
        whole - (predict_file(file, pixels).argmax(1) == labels).mean() for file in (broken, mended)
    )
    assert lost > 0.1
    assert abs(left) <= 0.02


def test_chains_pass_what_is_proportional_and_stop_elsewhere() -> None:
    found = chains(ModelProto.FromString(wrap(models.model()).file))
    assert [(c.first.op_type, c.second.op_type) for c in found] == [
        ("Conv", "Conv"),
        ("Conv", "Gemm"),
    ]
    swish = chains(ModelProto.FromString(wrap(models.model("mobile")).file))
    assert not swish  # Hard swish is not proportional.


@pytest.mark.parametrize("turned", [0, 1])
def test_matrices_either_way_round(turned: int) -> None:
    made = models.model()
    gemm = next(node for node in made.graph.node if node.op_type == "Gemm")
    weight = next(t for t in made.graph.initializer if t.name == gemm.input[1])
    array = np.frombuffer(weight.raw_data, np.float32).reshape(weight.dims)
    is_turned = any(a.name == "transB" and a.i for a in gemm.attribute)
    if is_turned != bool(turned):
        weight.raw_data = np.ascontiguousarray(array.T).tobytes()
        weight.dims[:] = array.T.shape
        kept = [a for a in gemm.attribute if a.name != "transB"]
        del gemm.attribute[:]
        gemm.attribute.extend([*kept, helper.make_attribute("transB", turned)])
    file, (pixels, _) = wrap(made).file, models.pictures(32)
    assert (
        np.abs(predict_file(equalize_onnx(file, pixels), pixels) - predict_file(file, pixels)).max()
        < 1e-4
    )
