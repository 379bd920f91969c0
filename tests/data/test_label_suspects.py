from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lepton_automl.data.audit.full_audit import make_thumbnails
from lepton_automl.data.audit.label_suspects import (
    find_label_suspects,
    out_of_fold,
    rank,
    stratified_folds,
)
from lepton_automl.data.opening import open_dataset
from tests.helpers.pictures import random_pictures, write_npz


def test_the_ranking_is_that_of_the_definitions_written_out():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 60)
    given = rng.dirichlet(np.full(4, 0.5), 60)
    order, margins, count = rank(given, labels)
    thresholds = [
        sum(given[n][j] for n in range(60) if labels[n] == j) / sum(labels == j) for j in range(4)
    ]
    off = 0
    for n in range(60):
        sure = [j for j in range(4) if given[n][j] >= thresholds[j]]
        off += bool(sure) and max(sure, key=lambda j: given[n][j]) != labels[n]
        others = [given[n][j] for j in range(4) if j != labels[n]]
        assert margins[n] == pytest.approx(given[n][labels[n]] - max(others))
    assert count == off > 0
    shares = [given[n][labels[n]] / thresholds[labels[n]] for n in order]
    assert (np.diff(shares) >= 0).all()


def test_of_a_classifier_that_is_nearly_sure_another_class_at_0_9_counts():
    """The means of self-confidence are above 0.97, which a wrong label's true class misses."""
    labels = np.repeat([0, 1], 50)
    given = np.tile([0.999, 0.001], (100, 1))
    given[50:] = given[50:, ::-1]
    given[3], given[70], given[71] = [0.05, 0.95], [0.91, 0.09], [0.6, 0.4]
    order, _, count = rank(given.copy(), labels)
    assert count == 2
    assert set(order[:2]) == {3, 70}


def test_folds_keep_groups_whole_and_spread_each_class():
    groups = np.arange(200) // 4
    labels = groups % 5
    folds = stratified_folds(labels, groups, 0)
    for group in range(50):
        assert len(set(folds[groups == group])) == 1
    assert np.bincount(labels * 5 + folds).tolist() == [8] * 25


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("width", [6, 150])
def test_scores_are_those_of_a_regression_that_was_fitted_without_the_fold(width, kind):
    """Of fewer samples than features too, for which another system of equations is solved."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, width)).astype(kind)
    labels, folds = np.arange(100) % 3, rng.permutation(100) % 5
    found = out_of_fold(features.copy(), labels, folds, 7.0)
    features = features.astype(np.float64)
    x = (features - features.mean(0)) / (features.std(0) + 1e-4)
    x, y = np.c_[x, np.ones(100)], np.eye(3)[labels]
    for fold in range(5):
        rest, own = x[folds != fold], x[folds == fold]
        damped = rest.T @ rest + 7 * np.eye(width + 1)
        weights = np.linalg.solve(damped, rest.T @ y[folds != fold])
        error = 1e-4 if kind == np.float32 else 5e-3
        assert found[folds == fold] == pytest.approx(own @ weights, abs=error)


def test_the_regression_holds_no_second_copy_of_the_features():
    """Of 20,000 pictures the features take most of the memory of an audit."""
    features = np.random.default_rng(0).normal(size=(20_000, 300)).astype(np.float32)
    labels, folds = np.arange(20_000) % 3, np.arange(20_000) % 5
    tracemalloc.start()
    try:
        out_of_fold(features, labels, folds, 100.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < features.nbytes


def test_swapped_labels_are_named_first_and_copies_do_not_vouch_for_each_other(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 90, (300, 12, 12, 1), dtype=np.uint8)
    y = np.arange(300) % 3
    for n, label in enumerate(y):
        x[n, 4 * label : 4 * label + 4] += 120
    swapped = [10, 50, 51, 200]
    x[51] = x[50]
    y[51] = y[50]
    y[swapped] = (y[swapped] + 1) % 3
    dataset = open_dataset(write_npz(tmp_path / "a.npz", x=x, y=y))
    found = find_label_suspects(dataset, make_thumbnails(dataset))
    named = {dataset.part(each.key[0]).ids[each.key[1]] for each in found.suspects}
    assert named == {f"x[{n}]" for n in swapped}
    assert found.judged == 300


def test_labels_without_any_relation_to_pictures_are_not_judged(tmp_path):
    path = write_npz(tmp_path / "a.npz", x=random_pictures(300, (8, 8, 1)), y=np.arange(300) % 3)
    dataset = open_dataset(path)
    found = find_label_suspects(dataset, make_thumbnails(dataset))
    assert found.suspects == ()
    assert found.is_near_chance


def test_swapped_labels_of_signals_are_named_though_moments_and_spectra_are_alike(tmp_path):
    """Classes are the same wave forwards and backwards, each at a random place."""
    rng = np.random.default_rng(0)
    wave = np.arange(96) % 24 / 24.0
    y, shift = np.arange(240) % 2, rng.integers(0, 96, 240)
    pairs = zip(y, shift, strict=True)
    x = np.stack([np.roll(wave[:: 1 - 2 * label], start) for label, start in pairs])
    x = (x + rng.normal(0, 0.1, x.shape))[..., None].astype(np.float32)
    swapped = rng.choice(160, 4, replace=False)
    given = y.copy()
    given[swapped] = 1 - given[swapped]
    data = write_npz(
        tmp_path / "a.npz",
        x_train=x[:160],
        y_train=given[:160],
        x_val=x[160:200],
        y_val=y[160:200],
        x_test=x[200:],
        y_test=y[200:],
    )
    dataset = open_dataset(data)
    found = find_label_suspects(dataset, make_thumbnails(dataset))
    named = [(part, place) for part, place in (each.key for each in found.suspects)]
    assert len({("train", int(n)) for n in swapped} & set(named)) >= 3


def test_pictures_without_contrast_are_judged_by_their_brightness(tmp_path):
    x = np.full((60, 20, 20, 1), 116, np.uint8)
    x[np.arange(60), 0, np.arange(60) % 20] += 1  # No two alike of a class.
    data = open_dataset(write_npz(tmp_path / "x.npz", x=x, y=np.arange(60) // 20), group="none")
    find_label_suspects(data, make_thumbnails(data), 0)
