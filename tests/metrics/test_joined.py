"""Tests of metrics/joined.py."""

from __future__ import annotations

import math

import numpy as np

from lepton_automl.metrics.joined import join_answers


def test_answers_are_normalised_geometric_means_in_the_order_of_first_samples() -> None:
    rng = np.random.default_rng(0)
    answers = rng.dirichlet(np.ones(3), 7).astype(np.float32)
    recordings = np.array([5, 2, 5, 9, 2, 5, 9])

    joined, first = join_answers(answers, recordings)

    assert first.tolist() == [0, 1, 3]
    for row, number in zip(joined, (5, 2, 9), strict=True):
        own = [answers[n] for n in range(7) if recordings[n] == number]
        means = [math.prod(float(p[k]) for p in own) ** (1 / len(own)) for k in range(3)]
        np.testing.assert_allclose(row, np.array(means) / sum(means), rtol=1e-5)


def test_a_recording_of_one_sample_keeps_its_answer() -> None:
    joined, first = join_answers(np.array([[0.25, 0.75], [0.9, 0.1]]), np.array([1, 0]))

    np.testing.assert_allclose(joined, [[0.25, 0.75], [0.9, 0.1]])
    assert first.tolist() == [0, 1]


def test_a_probability_of_zero_in_one_window_does_not_rule_a_class_out() -> None:
    answers = np.array([[0.0, 1.0], *[[0.99, 0.01]] * 9])

    joined, _ = join_answers(answers, np.zeros(10, np.int64))

    assert joined.argmax(1).tolist() == [0]
    assert np.isfinite(joined).all()
