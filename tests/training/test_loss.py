"""Losses against the formulas, sample by sample."""

from __future__ import annotations

import math

import pytest
import torch

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.loader import Batch
from lepton_automl.training.loop import fit
from lepton_automl.training.loss import Loss
from lepton_automl.training.recipe import Recipe
from tests.helpers.nets import random_model, random_pixels

LABELS = torch.tensor([0, 1, 2, 0, 1])


def drawn(seed=0):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).double()


def cross_entropy(logits, label, smoothing=0.0):
    p = logits.softmax(0)
    even = sum(-math.log(each) for each in p) / len(p)
    return (1 - smoothing) * -math.log(p[label]) + smoothing * even


def alone(recipe=None):
    return Loss(recipe or Recipe(), None, 0.9, 4.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_a_teacher_it_is_the_smoothed_cross_entropy(smoothing):
    given = alone(Recipe(label_smoothing=smoothing))(drawn(), Batch(drawn(), LABELS))
    pairs = zip(drawn(), LABELS, strict=True)
    assert float(given) == pytest.approx(sum(cross_entropy(z, y, smoothing) for z, y in pairs) / 5)


def test_the_distilled_loss_is_hintons_formula():
    logits, wanted = drawn(), drawn(1)
    given = Loss(Recipe(), lambda x: wanted, 0.7, 3.0)(logits, Batch(logits, LABELS))
    hard, soft = 0.0, 0.0
    for z, t, label in zip(logits, wanted, LABELS, strict=True):
        p, q = (t / 3).softmax(0), (z / 3).softmax(0)
        soft += sum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True)) / 5
        hard += cross_entropy(z, label) / 5
    assert float(given) == pytest.approx(0.3 * hard + 0.7 * 9 * soft)


def test_mixed_labels_are_weighted_by_lambda():
    others, kept = LABELS.flip(0), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]).double()
    given = alone()(drawn(), Batch(drawn(), LABELS, others, kept))
    rows = zip(drawn(), LABELS, others, kept, strict=True)
    wanted = sum(s * cross_entropy(z, a) + (1 - s) * cross_entropy(z, b) for z, a, b, s in rows)
    assert float(given) == pytest.approx(float(wanted / 5))


def test_a_teacher_gets_no_gradient():
    seen = torch.ones(5, 3, requires_grad=True)
    logits = drawn().float().requires_grad_()
    Loss(Recipe(), lambda x: seen * 2, 0.5, 2.0)(logits, Batch(drawn(), LABELS)).backward()
    assert logits.grad is not None
    assert seen.grad is None


COUNTS = torch.tensor([4, 2, 6])
WEIGHTS = torch.tensor([1.0, 2.0, 2 / 3]).double()  # 12 pictures, 3 classes: 12 / (3 * count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_pictures_are_as_if_rare_ones_were_there_more_often(smoothing):
    labels = torch.repeat_interleave(torch.arange(3), COUNTS)
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(3)).double()
    recipe = Recipe(label_smoothing=smoothing)
    given = Loss(recipe, None, 0.9, 4.0, WEIGHTS)(logits, Batch(logits, labels))
    often = torch.repeat_interleave(torch.arange(12), 12 // COUNTS[labels])
    wanted = alone(recipe)(logits[often], Batch(logits, labels[often]))
    assert float(given) == pytest.approx(float(wanted))


def test_class_weights_apply_to_distillation_and_mixed_labels():
    others, kept = LABELS.flip(0), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]).double()
    wanted, hard, soft = drawn(1), 0.0, 0.0
    rows = zip(drawn(), wanted, LABELS, others, kept, strict=True)
    for z, t, own, other, share in rows:
        each = float(share * WEIGHTS[own] + (1 - share) * WEIGHTS[other])
        p, q = (t / 3).softmax(0), (z / 3).softmax(0)
        soft += each * sum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True)) / 5
        hard += float(share * WEIGHTS[own] * cross_entropy(z, own)) / 5
        hard += float((1 - share) * WEIGHTS[other] * cross_entropy(z, other)) / 5
    loss = Loss(Recipe(), lambda x: wanted, 0.7, 3.0, WEIGHTS)
    given = loss(drawn(), Batch(drawn(), LABELS, others, kept))
    assert float(given) == pytest.approx(0.3 * hard + 0.7 * 9 * soft)


def test_a_class_that_is_absent_from_a_batch_leaves_the_loss_finite():
    labels = torch.zeros(5, dtype=torch.int64)
    given = Loss(Recipe(label_smoothing=0.1), None, 0.9, 4.0, WEIGHTS)(
        drawn(), Batch(drawn(), labels)
    )
    assert float(given) == pytest.approx(
        float(WEIGHTS[0])
        * float(alone(Recipe(label_smoothing=0.1))(drawn(), Batch(drawn(), labels)))
    )


def test_the_mean_of_the_logits_does_not_drift():
    """No answer depends on it, so what moves it is rounding, blown up by the optimiser."""
    model = random_model(chain((8, 8, 1), [Stem(20), Conv(32), Conv(16), Head()], 3), 1)
    pixels = random_pixels(model.arch, 256, 1)
    with torch.no_grad():
        labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    recipe = Recipe(optimizer="muon", lr=0.02, batch_size=32, weight_decay=0.0)
    course = {"epochs": 60, "seed": 0, "distill_weight": 1.0}
    after = fit(model, LabelledTensors(pixels, labels), recipe, teachers=(model,), **course)
    common = [each.weights["3/logits.weight"].mean(0).norm() for each in (model, after)]
    assert common[1] < 2 * common[0]  # four times without the loss's care
