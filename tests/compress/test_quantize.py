from __future__ import annotations

import dataclasses

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold
from lepton_automl.compress.quantization.quantize import to_int8
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
    return fold(random_model(arch, seed)), random_pixels(arch, 32, seed)


def test_the_step_trains_with_rounding_only_when_it_must():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    told = []
    work = Work(
        data,
        data,
        model,
        Limits(max_drop=100.0),
        targets.load(),
        Recipe(),
        epochs=4,
        emit=told.append,
    )
    made = to_int8(model, work)
    assert "trained" not in made.method
    assert len(made.pictures) == min(PICTURES, len(pixels))
    assert not told
    wrong = LabelledTensors(pixels, (labels + 1) % 3)  # every answer of the file is wrong now
    spoilt = dataclasses.replace(
        work, limits=Limits(max_drop=0.0), validation=data, reference=model
    )
    coarse = dataclasses.replace(spoilt.target, weight_limit=1)
    to_int8(model, dataclasses.replace(spoilt, target=coarse, train=wrong))
    assert [event for event in told if "training with rounding" in event.message]


def test_a_class_that_loses_too_much_has_the_net_trained_with_rounding():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data, told = LabelledTensors(pixels, labels), []
    limits = Limits(max_drop=100.0, max_class_drop=0.0)
    coarse = dataclasses.replace(targets.load(), weight_limit=1)
    work = Work(data, data, model, limits, coarse, Recipe(), epochs=4, emit=told.append)
    to_int8(model, work)
    assert [event for event in told if "training with rounding" in event.message]
    told.clear()
    to_int8(model, dataclasses.replace(work, limits=Limits(max_drop=100.0)))
    assert not told


def test_what_each_way_gives_is_listed_where_plain_rounding_gives_too_little():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    coarse = dataclasses.replace(targets.load(), weight_limit=2)
    for limits, is_broken in ((Limits(max_drop=100.0), False), (Limits(max_drop=0.0), True)):
        told = []
        work = Work(data, data, model, limits, coarse, Recipe(), emit=told.append)
        made = to_int8(model, work)
        assert made.prices[0].method == "plain"
        prices = [event.message for event in told if event.message.startswith("int8 ")]
        assert prices[: len(made.prices)] == [f"int8 {p}" for p in made.prices] * is_broken
        judged = {price.method for price in made.prices if price.accuracy is not None}
        every = {price.method for price in made.prices}
        assert judged == (every if is_broken else {"plain", made.method})
        assert made.divergence == min(price.nats_from_float for price in made.prices)
        # The oracle: the same integers written and judged from outside.
        file = int8_file(
            quantize(fold(model), calibrate(fold(model), pixels), 2, clip=False, correct=False)
        )
        right = onnx_probabilities(file, pixels).argmax(1) == labels.numpy()
        assert made.prices[0].accuracy == right.mean()


def test_training_with_rounding_has_its_price_as_well():
    model, pixels = plain()
    labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    coarse = dataclasses.replace(targets.load(), weight_limit=1)
    work = Work(data, data, model, Limits(max_drop=0.0), coarse, Recipe(), epochs=4)
    made = to_int8(model, work)
    last = made.prices[-1]
    assert last.method.endswith("trained with rounding")
    assert last.seconds > 0
    assert (last.accuracy > made.prices[0].accuracy) or made.method != last.method
