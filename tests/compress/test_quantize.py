from __future__ import annotations

import dataclasses

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.quantize import NEAREST, quantize_model
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.sampling import PICTURES
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv as ConvLayer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels


def plain(seed=0):
    arch = chain((8, 8, 1), [Stem(8), ConvLayer(8), Head()], 3)
    return fold_batchnorm(random_model(arch, seed)), random_pixels(arch, 32, seed)


def test_fine_tuning_with_quantization_happens_only_where_validation_loses_too_much():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    told = []
    context = CompressionContext(
        data,
        data,
        model,
        Limits(max_drop=100.0),
        targets.load(),
        Recipe(),
        epochs=4,
        emit=told.append,
    )
    made = quantize_model(model, context)
    assert "fine-tuning" not in made.method
    assert len(made.calibration_ids) == min(PICTURES, len(pixels))
    assert not told
    wrong = LabelledTensors(pixels, (labels + 1) % 3)  # every answer of the file is wrong now
    spoilt = dataclasses.replace(
        context, limits=Limits(max_drop=0.0), validation=data, reference=model
    )
    coarse = dataclasses.replace(spoilt.target, weight_limit=1)
    quantize_model(model, dataclasses.replace(spoilt, target=coarse, train=wrong))
    assert [event for event in told if "quantization-aware fine-tuning" in event.message]


def test_a_class_that_loses_too_much_leads_to_fine_tuning_with_quantization():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data, told = LabelledTensors(pixels, labels), []
    limits = Limits(max_drop=100.0, max_class_drop=0.0)
    coarse = dataclasses.replace(targets.load(), weight_limit=1)
    context = CompressionContext(
        data, data, model, limits, coarse, Recipe(), epochs=4, emit=told.append
    )
    quantize_model(model, context)
    assert [event for event in told if "quantization-aware fine-tuning" in event.message]
    told.clear()
    quantize_model(model, dataclasses.replace(context, limits=Limits(max_drop=100.0)))
    assert not told


def test_all_methods_are_evaluated_where_rounding_to_nearest_is_not_accurate_enough():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    coarse = dataclasses.replace(targets.load(), weight_limit=2)
    for limits, is_broken in ((Limits(max_drop=100.0), False), (Limits(max_drop=0.0), True)):
        told = []
        context = CompressionContext(data, data, model, limits, coarse, Recipe(), emit=told.append)
        made = quantize_model(model, context)
        assert made.results[0].method == NEAREST
        results = [event.message for event in told if event.message.startswith("int8 ")]
        assert results[: len(made.results)] == [f"int8 {p}" for p in made.results] * is_broken
        judged = {result.method for result in made.results if result.accuracy is not None}
        every = {result.method for result in made.results}
        assert judged == (every if is_broken else {NEAREST, made.method})
        assert made.kl_divergence == min(result.kl_divergence for result in made.results)
        # The oracle: the same integers written and judged from outside.
        file = int8_file(
            quantize(
                fold_batchnorm(model),
                calibrate(fold_batchnorm(model), pixels),
                2,
                clip=False,
                correct=False,
            )
        )
        right = onnx_probabilities(file, pixels).argmax(1) == labels.numpy()
        assert made.results[0].accuracy == right.mean()


def test_fine_tuning_with_quantization_has_a_result_as_well():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    coarse = dataclasses.replace(targets.load(), weight_limit=1)
    context = CompressionContext(
        data, data, model, Limits(max_drop=0.0), coarse, Recipe(), epochs=4
    )
    made = quantize_model(model, context)
    last = made.results[-1]
    assert last.method.endswith("quantization-aware fine-tuning")
    assert last.seconds > 0
    assert (last.accuracy > made.results[0].accuracy) or made.method != last.method
