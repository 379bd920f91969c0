from __future__ import annotations

import numpy as np
import pytest
import torch

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.qat import (
    fake_quantized_forward,
    finetune,
    trainable_network,
)
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.compress.recovery import RecoveryBudget
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.graph import ACTIVATIONS
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_arch, random_model, random_pixels


@pytest.mark.parametrize("seed", range(12))
def test_simulated_rounding_is_what_onnxruntime_computes(seed):
    model = fold_batchnorm(random_model(random_arch(seed, activations=ACTIVATIONS), seed))
    pixels = random_pixels(model.arch, 32, seed)
    model = quantize(model, calibrate(model, pixels), 64)
    forward = fake_quantized_forward(
        trainable_network(model, model.qparams), model.qparams, 64, torch.device("cpu")
    )
    with torch.no_grad():
        given = forward(model.preprocessing.apply(pixels)).softmax(1).numpy()
    in_file = onnx_probabilities(int8_file(model), pixels)
    in_float = model.network()(model.preprocessing.apply(pixels)).softmax(1).detach().numpy()
    # Ties round differently and one step travels on, so values agree closely, not bit for bit;
    # the simulation must be several times nearer to the file than the float net is.
    assert np.abs(given - in_file).mean() < 0.5 * np.abs(in_float - in_file).mean() + 1e-4


def test_training_with_rounding_repairs_what_rounding_broke():
    arch = random_arch(2, layers=("conv",), classes=3)
    reference = random_model(arch, 2)
    pixels = random_pixels(arch, 192, 5)
    labels = reference.network()(reference.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    model = fold_batchnorm(reference)
    coarse = quantize(model, calibrate(model, pixels), 3, correct=False)  # weights in +-3
    target = targets.load()
    target = type(target)(**{**vars(target), "weight_limit": 3})
    context = CompressionContext(
        data, data, reference, Limits(), target, Recipe(augment=0.0, batch_size=32)
    )
    tuned = finetune(coarse, context, RecoveryBudget(data, 4))
    wanted = reference.network()(reference.preprocessing.apply(pixels)).softmax(1).detach().numpy()

    def distance(made):
        return np.abs(onnx_probabilities(int8_file(made), pixels) - wanted).mean()

    assert distance(tuned) < 0.8 * distance(coarse)
    assert tuned.qparams.scales == coarse.qparams.scales
    assert max(np.abs(w).max() for w in tuned.qparams.weights.values()) <= 3
