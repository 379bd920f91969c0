"""Batches are split so that the estimated memory fits, and never below eight samples."""

import numpy as np
import pytest
import torch

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training import memory
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.loop import initial_model
from lepton_automl.training.memory import evaluation_batch, micro_batches, training_bytes


def graph(side, width=16):
    return chain((side, side, 3), [Stem(width, stride=1), Conv(width), Head()], 10).graph


def test_the_estimate_counts_the_values_of_a_batch():
    values = sum(op.y.size for op in graph(64).ops)
    grown = training_bytes(graph(64), 96) - training_bytes(graph(64), 32)
    assert grown == pytest.approx(5 * 4 * values * 64, abs=2)


def test_a_batch_that_fits_is_whole_and_another_one_is_split_until_it_fits():
    whole = training_bytes(graph(64), 64)
    assert micro_batches(graph(64), 64, None) == micro_batches(graph(64), 64, whole) == 1
    for count in (2, 4, 8):
        fits = training_bytes(graph(64), 64 // count)
        assert micro_batches(graph(64), 64, fits) == count
        assert micro_batches(graph(64), 64, fits - 1) == min(2 * count, 8)


def test_micro_batches_keep_eight_samples_each():
    assert micro_batches(graph(64), 64, 0) == 8
    assert micro_batches(graph(64), 20, 0) == 2
    assert micro_batches(graph(64), 8, 0) == 1


def test_large_pictures_are_evaluated_few_at_a_time_with_the_same_answers(monkeypatch):
    assert evaluation_batch(graph(16), 256) == 256
    assert evaluation_batch(graph(128), 256) == 32
    assert evaluation_batch(graph(900), 256) == 8
    model = initial_model(
        chain((8, 8, 3), [Stem(4, stride=1), Head()], 10), Preprocessing(128, 0.02), 0
    )
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8))
    expected = predict_logits(model, pixels)
    monkeypatch.setattr(memory, "_INFERENCE_VALUE_BYTES", 1)
    torch.testing.assert_close(predict_logits(model, pixels), expected)
    assert len(LabelledTensors(pixels, torch.zeros(50))) == 50
