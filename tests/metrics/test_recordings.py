"""Tests of metrics/recordings.py."""

from __future__ import annotations

import math

import numpy as np

from lepton_automl.metrics.recordings import join_predictions, recording_evidence


def test_answers_are_normalised_geometric_means_in_the_order_of_first_samples() -> None:
    rng = np.random.default_rng(0)
    answers = rng.dirichlet(np.ones(3), 7).astype(np.float32)
    recordings = np.array([5, 2, 5, 9, 2, 5, 9])

    joined, first = join_predictions(answers, recordings)

    assert first.tolist() == [0, 1, 3]
    for row, number in zip(joined, (5, 2, 9), strict=True):
        own = [answers[n] for n in range(7) if recordings[n] == number]
        means = [math.prod(float(p[k]) for p in own) ** (1 / len(own)) for k in range(3)]
        np.testing.assert_allclose(row, np.array(means) / sum(means), rtol=1e-5)


def test_a_recording_of_one_sample_keeps_its_answer() -> None:
    joined, first = join_predictions(np.array([[0.25, 0.75], [0.9, 0.1]]), np.array([1, 0]))

    np.testing.assert_allclose(joined, [[0.25, 0.75], [0.9, 0.1]])
    assert first.tolist() == [0, 1]


def test_a_probability_of_zero_in_one_window_does_not_rule_a_class_out() -> None:
    answers = np.array([[0.0, 1.0], *[[0.99, 0.01]] * 9])

    joined, _ = join_predictions(answers, np.zeros(10, np.int64))

    assert joined.argmax(1).tolist() == [0]
    assert np.isfinite(joined).all()


def test_evidence_is_of_recordings_with_their_labels_and_shared_groups() -> None:
    answers = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 0, 1])
    recordings = np.array([0, 0, 1, 2, 3])

    found = recording_evidence(answers, labels, recordings, None, is_balanced=True)

    assert found.correct.tolist() == [True, True, False, False]
    assert found.accuracy == 0.5
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1]
    own = recording_evidence(answers, labels, recordings, recordings, is_balanced=False)
    assert own.groups is None
    assert own.strata is None
    people = recording_evidence(
        answers, labels, recordings, np.array([7, 7, 7, 8, 8]), is_balanced=False
    )
    assert people.groups is not None
    assert people.groups.tolist() == [7, 7, 8, 8]
