"""Balanced statistics, against scikit-learn, plain loops and simulated classifiers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.utils.class_weight import compute_class_weight

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.metrics import balanced
from lepton_automl.training import loop
from lepton_automl.training.evaluate import is_correct
from tests.training.test_loop import PLAIN, fresh, stripes

LEVEL = 0.95


def sized(*counts):
    """Labels with so many samples of each class, in no order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_the_balanced_mean_is_scikit_learns_balanced_accuracy(pairs):
    labels, answers = np.array(pairs).T
    # scikit-learn warns where an answer is of a class that no sample has.
    answers = np.where(np.isin(answers, labels), answers, labels[0])
    wanted = np.mean(recall_score(labels, answers, average=None, labels=np.unique(labels)))
    if len(np.unique(labels)) > 1:
        assert wanted == pytest.approx(balanced_accuracy_score(labels, answers))
    assert balanced.balanced_mean(answers == labels, labels) == pytest.approx(wanted)
    assert balanced.balanced_total(answers == labels, labels) == pytest.approx(wanted * len(labels))


@given(st.lists(st.booleans(), min_size=1))
def test_without_strata_statistics_are_plain(right):
    values = np.array(right)
    assert balanced.balanced_mean(values, None) == values.mean()
    assert balanced.balanced_total(values, None) == values.sum()
    assert balanced.influence_values(values, None).tolist() == values.tolist()
    assert balanced.effective_fraction(values, None, None, LEVEL) == 1.0


@given(st.lists(st.integers(0, 5), min_size=2))
def test_weights_are_scikit_learns_and_absent_classes_have_none(labels):
    labels = np.array(labels)
    present = np.unique(labels)
    weights = balanced.class_weights(labels)
    wanted = compute_class_weight("balanced", classes=present, y=labels)
    assert weights[present] == pytest.approx(wanted)
    assert weights.sum() == pytest.approx(wanted.sum())
    assert weights[labels].mean() == pytest.approx(1.0)


def test_one_sample_among_thousands_does_not_throw_a_net_about():
    assert balanced.class_weights(sized(5000, 1)).tolist() == pytest.approx([5001 / 10000, 50.0])


@pytest.mark.parametrize(
    ("counts", "uneven"),
    [((300, 300), False), ((300, 100), False), ((301, 100), True), ((13861, 4659), False)],
)
def test_classes_are_uneven_below_a_third(counts, uneven):
    assert balanced.is_uneven(sized(*counts)) is uneven


def test_only_classes_of_one_size_are_even():
    assert balanced.is_even(sized(7, 7, 7))
    assert not balanced.is_even(sized(7, 7, 6))


def test_influence_values_have_the_mean_and_the_spread_of_balanced_accuracy():
    labels, chances = sized(400, 50, 20), np.array([0.95, 0.8, 0.6])
    right = np.random.default_rng(1).random(len(labels)) < chances[labels]
    values = balanced.influence_values(right, labels)
    recalls = np.array([right[labels == k].mean() for k in range(3)])
    by_hand = (recalls * (1 - recalls) / np.array([400, 50, 20])).sum() / 9
    assert values.mean() == pytest.approx(recalls.mean())
    assert values.var() / len(values) == pytest.approx(by_hand)


def test_effective_samples_spread_as_balanced_accuracy_does():
    labels, rng = sized(500, 60, 30, 10), np.random.default_rng(2)
    drawn = [balanced.balanced_mean(rng.random(600) < 0.8, labels) for _ in range(4000)]
    share = balanced.effective_fraction(np.ones(600), None, labels, LEVEL)
    assert np.var(drawn) == pytest.approx(0.8 * 0.2 / (600 * share), rel=0.1)
    assert balanced.effective_fraction(np.ones(90), None, sized(30, 30, 30), LEVEL) == 1.0


def test_errors_in_a_rare_class_reduce_the_effective_samples():
    labels, rng, chances = sized(500, 60, 20), np.random.default_rng(7), np.array([0.99, 0.95, 0.6])
    rights = [rng.random(580) < chances[labels] for _ in range(4000)]
    means = [balanced.balanced_mean(right, labels) for right in rights]
    effective = np.mean(means) * (1 - np.mean(means)) / np.var(means)
    shares = [balanced.effective_fraction(right, None, labels, LEVEL) for right in rights[:500]]
    assert np.median(shares) * 580 == pytest.approx(effective, rel=0.15)


@pytest.mark.parametrize("change", [False, True])
def test_the_bootstrap_is_that_of_a_plain_loop(change):
    labels, rng = sized(300, 80, 40), np.random.default_rng(3)
    values = (rng.random(420) < 0.8).astype(float)
    values = values - (rng.random(420) < 0.8) if change else values
    means = []
    for _ in range(4000):
        each = []
        for label in range(3):
            own = values[labels == label]
            drawn = own[rng.integers(0, len(own), len(own))].mean()
            each.append(own.mean() + (drawn - own.mean()) * np.sqrt(len(own) / (len(own) - 1)))
        means.append(np.mean(each))
    wanted = np.quantile(means, [0.025, 0.975])
    assert balanced.bootstrap_interval(values, None, labels, 0, LEVEL) == pytest.approx(
        wanted, abs=0.006
    )
    again = balanced.bootstrap_interval(values, None, labels, 0, LEVEL)
    assert again == balanced.bootstrap_interval(values, None, labels, 0, LEVEL)


def test_whole_groups_are_drawn_for_balanced_accuracy():
    # Groups of one class each: drawing groups within classes is the bootstrap to compare with.
    groups = np.repeat(np.arange(60), 10)
    labels = np.where(groups < 48, 0, 1)
    rng = np.random.default_rng(4)
    good = rng.random(60) < np.where(np.arange(60) < 48, 0.9, 0.6)
    right = good[groups]
    means = []
    for _ in range(4000):
        common, rare = rng.integers(0, 48, 48), 48 + rng.integers(0, 12, 12)
        means.append((good[common].mean() + good[rare].mean()) / 2)
    low, high = np.quantile(means, [0.025, 0.975])
    found = balanced.bootstrap_interval(right, groups, labels, 0, LEVEL)
    # A little wider: quantiles are Student's.
    assert high - low < found[1] - found[0] < 1.15 * (high - low)
    alone = balanced.effective_fraction(right, None, labels, LEVEL)
    assert balanced.effective_fraction(right, groups, labels, LEVEL) < 0.15 * alone


def test_a_class_with_one_sample_and_a_class_without_give_numbers():
    labels = np.array([0] * 30 + [2])
    right = np.arange(31) != 3
    assert balanced.balanced_mean(right, labels) == pytest.approx((29 / 30 + 1) / 2)
    low, high = balanced.bootstrap_interval(right, None, labels, 0, LEVEL)
    assert low < balanced.balanced_mean(right, labels) < high
    assert np.isfinite(balanced.influence_values(right, labels)).all()


@pytest.mark.parametrize("n", [4, 6, 40])
def test_few_samples_of_a_class_spread_as_their_unbiased_variance_says(n):
    labels, values = np.repeat(np.arange(8), n), np.random.default_rng(8).random(8 * n)
    low, high = balanced.bootstrap_interval(values, None, labels, 0, LEVEL)
    variances = [values[labels == k].var(ddof=1) / n for k in range(8)]
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(sum(variances)) / 8, rel=0.05)


def uneven(count=400, rare=10, seed=0):
    """Two classes that overlap, the second with few pictures: noise, or noise a little lighter."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) < rare).long()
    noise = torch.randint(0, 200, (count, 8, 8, 1), generator=generator)
    return LabelledTensors((noise + 6 * labels[:, None, None, None]).to(torch.uint8), labels)


def test_balanced_training_recognises_a_rare_class_as_often_as_a_frequent_one():
    data, judged = uneven(), uneven(600, 300, seed=1)
    recalls = {}
    for is_balanced in (False, True):
        given = dataclasses.replace(data, is_balanced=is_balanced)
        model = loop.fit(fresh(classes=2), given, PLAIN, epochs=8, seed=0)
        right = is_correct(model, judged)
        recalls[is_balanced] = right[300:].mean(), right[:300].mean()
    assert recalls[False][1] < 0.2 < recalls[False][0]
    assert recalls[True][1] > recalls[False][1] + 0.3
    assert sum(recalls[True]) > sum(recalls[False]) + 0.1


@pytest.mark.parametrize("kind", [{}, {"mixup": 0.5, "cutmix": 0.5}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize(("samples", "batch"), [(17, 16), (64, 4), (2, 16), (1, 16)])
def test_one_picture_of_a_class_and_classes_absent_from_batches_train(kind, samples, batch):
    data = stripes(samples, classes=1)
    labels = data.labels.clone()
    labels[-1] = 2  # one picture of the third class, none of the second
    data = LabelledTensors(data.pixels, labels, is_balanced=True)
    recipe = dataclasses.replace(PLAIN, batch_size=batch, augment=1.0, **kind)
    model = loop.fit(fresh(), data, recipe, epochs=6, seed=0, teachers=[fresh(1)])
    assert all(torch.isfinite(w).all() for w in model.weights.values())


def test_the_only_picture_of_a_class_is_learnt_and_its_weight_spoils_nothing():
    data = stripes(600, classes=2)
    labels = data.labels.clone()
    labels[599] = 2
    pixels = data.pixels.clone()
    pixels[599] = stripes(3).pixels[2]
    recipe = dataclasses.replace(PLAIN, lr=0.2)
    lone = LabelledTensors(pixels, labels, is_balanced=True)
    model = loop.fit(fresh(), lone, recipe, epochs=8, seed=0)
    right = is_correct(model, lone)
    assert right[-1]
    assert right[:-1].mean() > 0.95
