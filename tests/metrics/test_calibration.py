"""Temperatures and calibration errors against sklearn, definitions and known truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from sklearn.metrics import log_loss

from lepton_automl.metrics.calibration import (
    best_temperature,
    expected_calibration_error,
    negative_log_likelihood,
    tempered,
)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def drawn(temperature, count=20_000, classes=5, seed=0):
    """Probabilities of a model, and labels drawn from those at a temperature."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, classes))
    truth = softmax(logits / temperature)
    labels = (truth.cumsum(1) < rng.random((count, 1))).sum(1)
    return softmax(logits).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_with_which_labels_were_drawn_is_found(temperature):
    answers, labels = drawn(temperature)
    assert best_temperature(answers, labels) == pytest.approx(temperature, rel=0.05)


def test_weights_count_like_repeated_samples():
    answers, labels = drawn(2.0, count=400)
    rng = np.random.default_rng(1)
    times = rng.integers(1, 4, len(labels))
    repeated = best_temperature(np.repeat(answers, times, 0), np.repeat(labels, times))
    assert best_temperature(answers, labels, times) == pytest.approx(repeated, rel=0.02)


@pytest.mark.parametrize("temperature", [0.02, 0.4, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("classes", [2, 30])
def test_no_other_temperature_has_less_loss(temperature, classes):
    """By a scan; 700 samples are more than are taken at a time."""
    answers, labels = drawn(temperature, count=700, classes=classes)
    weights = np.random.default_rng(2).random(700)
    doubt, logits = 1 / 702, np.log(np.maximum(answers, 1e-12).astype(np.float64))
    share = np.full_like(logits, doubt / (classes - 1))
    share[np.arange(700), labels] = 1 - doubt

    def loss(value):
        losses = -(share * scipy.special.log_softmax(logits / value, 1)).sum(1)
        return np.average(losses, weights=weights)

    found = best_temperature(answers, labels, weights)
    scanned = [loss(value) for value in np.geomspace(0.1, 10, 2001)]
    assert 0.1 <= found <= 10
    assert loss(found) <= min(scanned) + 1e-7


@pytest.mark.parametrize("count", [100, 1000])
def test_samples_that_are_all_right_do_not_make_a_net_certain(count):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 5
    answers = softmax(3 * np.eye(5)[labels] + 0.2 * rng.normal(size=(count, 5)))
    doubt = 1 - tempered(answers, best_temperature(answers, labels)).max(1).mean()
    assert doubt == pytest.approx(1 / (count + 2), rel=0.5)


def test_tempered_probabilities_are_the_softmax_of_divided_logits():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 4
    assert np.allclose(tempered(softmax(logits), 1.7), softmax(logits / 1.7))
    assert (tempered(softmax(logits), 0.3).argmax(1) == logits.argmax(1)).all()
    certain = np.array([[1.0, 0.0, 0.0]], np.float32)
    assert np.isfinite(tempered(certain, 5.0)).all()


def test_the_likelihood_is_that_of_sklearn():
    answers, labels = drawn(1.0, count=300)
    weights = np.random.default_rng(2).random(300)
    assert negative_log_likelihood(answers, labels) == pytest.approx(log_loss(labels, answers))
    assert negative_log_likelihood(answers, labels, weights) == pytest.approx(
        log_loss(labels, answers, sample_weight=weights)
    )


def test_the_calibration_error_is_that_of_its_definition():
    rng = np.random.default_rng(3)
    greatest = rng.random(500).astype(np.float32)
    greatest[:3] = 0.0, 1.0, 1.0
    correct = rng.random(500) < 0.4
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = (greatest >= low) & (greatest < low + 1 / 15)
        inside |= (low > 14 / 15 - 1e-9) & (greatest == 1.0)
        if inside.any():
            gap = abs(greatest[inside].mean(dtype=np.float64) - correct[inside].mean())
            wanted += inside.mean() * gap
    assert expected_calibration_error(greatest, correct) == pytest.approx(wanted, abs=1e-6)
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0.0
    assert expected_calibration_error(np.ones(4), np.zeros(4, bool)) == 1.0
