from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from scipy.stats import entropy

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import (
    float_probabilities,
    int8_file,
    kl_divergence,
    validation_accuracy,
)
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch, random_model, random_pixels


def test_divergence_is_the_mean_relative_entropy():
    rng = np.random.default_rng(0)
    wanted, given = rng.dirichlet(np.ones(5), (2, 40))
    assert kl_divergence(wanted, given) == pytest.approx(
        entropy(wanted.T, given.T).mean(), rel=1e-4
    )
    assert kl_divergence(wanted, wanted) == 0


def test_a_float_model_is_judged_in_float_and_an_int8_model_by_its_file():
    model = fold_batchnorm(random_model(random_arch(3), 3))
    pixels = random_pixels(model.arch, 40, 3)
    answers = torch.from_numpy(float_probabilities(model, pixels).argmax(1))
    labels = answers.clone()
    labels[:10] = (labels[:10] + 1) % model.arch.classes
    data = LabelledTensors(pixels, labels)
    context = CompressionContext(data, data, model, Limits(), targets.load(), Recipe())
    assert validation_accuracy(model, context) == 0.75
    made = quantize(model, calibrate(model, pixels), 64)
    spoilt = {name: np.zeros_like(bias) for name, bias in made.qparams.biases.items()}
    weights = {name: np.zeros_like(w) for name, w in made.qparams.weights.items()}
    spoilt[list(spoilt)[-1]][2] = 1_000_000  # the file answers class 2 whatever it sees
    qparams = dataclasses.replace(made.qparams, biases=spoilt, weights=weights)
    always = dataclasses.replace(made, qparams=qparams)
    assert validation_accuracy(always, context) == (labels == 2).double().mean()


def test_the_judged_file_is_a_standard_one():
    model = fold_batchnorm(random_model(random_arch(3), 3))
    made = quantize(model, calibrate(model, random_pixels(model.arch, 8)), 64)
    onnx.checker.check_model(int8_file(made), full_check=True)


def test_where_classes_count_alike_so_do_their_shares():
    model = fold_batchnorm(random_model(random_arch(3), 3))
    pixels = random_pixels(model.arch, 40, 3)
    labels = float_probabilities(model, pixels).argmax(1)
    labels[:10] = (labels[:10] + 1) % model.arch.classes
    data = LabelledTensors(pixels, torch.from_numpy(labels), is_balanced=True)
    context = CompressionContext(data, data, model, Limits(), targets.load(), Recipe())
    answers = float_probabilities(model, pixels).argmax(1)
    each = [(answers == labels)[labels == k].mean() for k in np.unique(labels)]
    assert validation_accuracy(model, context) == pytest.approx(np.mean(each))
    assert validation_accuracy(model, context) != 0.75
