"""Oracles: answers made from a known rule, so that the truth of each case is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from lepton_automl.search.finals.mirror_test import FlipVerdict, _auc, mirror_test


def answers(labels: np.ndarray, classes: int, sharpness: float, seed: int) -> np.ndarray:
    """Logits of a net: noise, and `sharpness` more for the right class."""
    noise = np.random.default_rng(seed).normal(0, 1, (len(labels), classes))
    noise[np.arange(len(labels)), labels] += sharpness
    return noise


def labels_of(classes: int, each: int) -> np.ndarray:
    return np.repeat(np.arange(classes), each)


def exchanged(labels: np.ndarray, first: int, second: int) -> np.ndarray:
    """The classes that mirrored pictures seem to have."""
    seen = labels.copy()
    seen[labels == first], seen[labels == second] = second, first
    return seen


def names(classes: int) -> list[str]:
    return [f"class {number}" for number in range(classes)]


@pytest.mark.parametrize(("classes", "each"), [(2, 100), (3, 80), (10, 60), (43, 40), (200, 20)])
def test_answers_that_mirroring_does_not_change_allow_flips(classes: int, each: int) -> None:
    labels = labels_of(classes, each)
    plain, mirrored = (answers(labels, classes, 5.0, seed) for seed in (0, 1))
    assert mirror_test(plain, mirrored, labels, names(classes)).verdict is FlipVerdict.ON


@pytest.mark.parametrize(("classes", "each"), [(2, 100), (3, 80), (43, 40), (200, 20)])
def test_one_exchanged_pair_forbids_flips_however_small_the_mean_loss(
    classes: int, each: int
) -> None:
    labels = labels_of(classes, each)
    plain = answers(labels, classes, 6.0, 0)
    mirrored = answers(exchanged(labels, 0, 1), classes, 6.0, 1)
    found = mirror_test(plain, mirrored, labels, names(classes))
    assert found.verdict is FlipVerdict.OFF
    assert "'class 0' and 'class 1'" in found.reason


def test_a_pair_that_the_net_does_not_tell_apart_leaves_it_open() -> None:
    labels = labels_of(20, 40)
    plain, mirrored = (answers(labels, 20, 6.0, seed) for seed in (0, 1))
    for answer in (plain, mirrored):
        pair = labels < 2
        answer[pair, :2] = 6 + np.random.default_rng(2).normal(0, 1, (pair.sum(), 2))
    found = mirror_test(plain, mirrored, labels, names(20))
    assert found.verdict is FlipVerdict.OPEN
    assert "'class 0' and 'class 1' are not told apart yet" in found.reason


def test_a_net_that_knows_nothing_leaves_it_open() -> None:
    labels = labels_of(5, 200)
    plain, mirrored = (answers(labels, 5, 0.0, seed) for seed in (0, 1))
    assert mirror_test(plain, mirrored, labels, names(5)).verdict is FlipVerdict.OPEN


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_class_with_too_few_pictures_leaves_it_open(count: int) -> None:
    labels = np.concatenate([labels_of(4, 100), np.full(count, 4)])
    plain, mirrored = (answers(labels, 5, 6.0, seed) for seed in (0, 1))
    found = mirror_test(plain, mirrored, labels, names(5))
    assert found.verdict is FlipVerdict.OPEN
    assert "'class 4'" in found.reason


def test_few_groups_leave_it_open_where_as_many_independent_pictures_decide() -> None:
    labels = np.tile(np.arange(4), 100)
    plain, mirrored = (answers(labels, 4, 3.0, seed) for seed in (0, 1))
    assert mirror_test(plain, mirrored, labels, names(4)).verdict is FlipVerdict.ON
    groups = np.arange(400) // 200
    assert mirror_test(plain, mirrored, labels, names(4), groups).verdict is FlipVerdict.OPEN


@pytest.mark.parametrize(("classes", "wanted"), [(20, FlipVerdict.OPEN), (6, FlipVerdict.OFF)])
def test_one_class_taken_for_another_one_way_only_forbids_flips_by_the_share_that_is_lost(
    classes: int, wanted: FlipVerdict
) -> None:
    """As shoes that all point to one side: 5 and 17 % of the accuracy are lost."""
    labels = labels_of(classes, 100)
    seen = labels.copy()
    seen[labels == 1] = 0
    plain, mirrored = answers(labels, classes, 8.0, 0), answers(seen, classes, 8.0, 1)
    found = mirror_test(plain, mirrored, labels, names(classes))
    assert found.verdict is wanted
    assert found.certainty == ("measured" if wanted is FlipVerdict.OFF else "assumed")


def test_a_loss_in_so_few_groups_that_it_may_be_chance_forbids_flips_as_the_safe_side() -> None:
    labels = np.tile(np.arange(4), 100)
    plain, seen = answers(labels, 4, 8.0, 0), labels.copy()
    seen[:100] = (labels[:100] + 1) % 4  # All in one of three groups.
    mirrored, groups = answers(seen, 4, 8.0, 1), np.arange(400) // 134
    found = mirror_test(plain, mirrored, labels, names(4), groups)
    assert (found.verdict, found.certainty) == (FlipVerdict.OFF, "assumed")


def test_mirror_images_that_are_not_recognized_at_all_forbid_flips() -> None:
    labels = labels_of(10, 100)
    plain, mirrored = answers(labels, 10, 6.0, 0), answers(labels, 10, 0.0, 1)
    assert mirror_test(plain, mirrored, labels, names(10)).verdict is FlipVerdict.OFF


@given(st.integers(0, 50), st.integers(2, 8), st.floats(0.0, 4.0))
def test_what_mirroring_does_not_change_is_never_called_exchanged(
    seed: int, classes: int, sharpness: float
) -> None:
    labels = labels_of(classes, 25)
    plain, mirrored = (answers(labels, classes, sharpness, 100 * seed + n) for n in (0, 1))
    found = mirror_test(plain, mirrored, labels, names(classes))
    assert "exchanges" not in found.reason


@given(st.integers(0, 50), st.integers(2, 8), st.floats(0.0, 4.0))
def test_what_mirroring_exchanges_is_never_allowed(
    seed: int, classes: int, sharpness: float
) -> None:
    labels = labels_of(classes, 25)
    plain = answers(labels, classes, sharpness, 100 * seed)
    mirrored = answers(exchanged(labels, 0, 1), classes, sharpness, 100 * seed + 1)
    assert mirror_test(plain, mirrored, labels, names(classes)).verdict is not FlipVerdict.ON


def test_a_rare_class_weighs_as_much_as_others_where_classes_are_balanced() -> None:
    labels = np.repeat([0, 1, 2], [900, 900, 60])
    plain, seen = answers(labels, 3, 5.0, 0), labels.copy()
    seen[(labels == 2) & (np.arange(1860) % 2 == 0)] = 0
    mirrored = answers(seen, 3, 5.0, 1)
    assert mirror_test(plain, mirrored, labels, names(3)).verdict is FlipVerdict.OPEN
    assert mirror_test(plain, mirrored, labels, names(3), None, labels).verdict is FlipVerdict.OFF


def test_only_the_mean_in_doubt_prefers_flips_and_a_class_in_doubt_does_not() -> None:
    labels = labels_of(2, 25)
    plain, seen = answers(labels, 2, 9.0, 0), labels.copy()
    seen[[0, 30]] = 1 - seen[[0, 30]]
    found = mirror_test(plain, answers(seen, 2, 9.0, 1), labels, names(2))
    assert (found.verdict, found.prefers_flips) == (FlipVerdict.OPEN, True)
    few = np.concatenate([labels_of(2, 25), [2, 2]])
    plain, mirrored = (answers(few, 3, 9.0, seed) for seed in (0, 1))
    found = mirror_test(plain, mirrored, few, names(3))
    assert (found.verdict, found.prefers_flips) == (FlipVerdict.OPEN, False)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1)
)
def test_the_auc_is_that_of_scikit_learn(positive: list[int], negative: list[int]) -> None:
    known = roc_auc_score([1] * len(positive) + [0] * len(negative), [*positive, *negative])
    assert _auc(np.array(positive, float), np.array(negative, float)) == pytest.approx(known)


@pytest.mark.parametrize("classes", [3, 12])
def test_an_exchange_is_significant_over_all_pairs_of_classes_together(classes: int) -> None:
    """Against scipy's rank-sum test and its probability times the number of pairs."""
    labels, pairs = labels_of(classes, 40), classes * (classes - 1) // 2
    plain, seen = answers(labels, classes, 9.0, 0), set()
    for shift in np.linspace(0.0, 1.5, 16):
        mirrored = plain.copy()
        # Mirrored, only the first two classes are mixed up, the more exchanged the larger `shift`.
        mirrored[labels < 2, :2] = 9 + answers(1 - labels[labels < 2], 2, shift, 1)
        first, second = (mirrored[labels == k, 0] - mirrored[labels == k, 1] for k in (0, 1))
        chance = mannwhitneyu(
            first, second, alternative="less", method="asymptotic", use_continuity=False
        ).pvalue
        found = mirror_test(plain, mirrored, labels, names(classes))
        assert ("exchanges" in found.reason) == (chance * pairs < 0.05)
        seen.add((bool(chance < 0.05), bool(chance * pairs < 0.05)))
    assert seen == {(False, False), (True, False), (True, True)}


def test_pictures_of_a_class_count_by_their_groups() -> None:
    labels = np.repeat(np.arange(10), 100)
    plain, mirrored = (answers(labels, 10, 9.0, seed) for seed in (0, 1))
    assert mirror_test(plain, mirrored, labels, names(10)).verdict is FlipVerdict.ON
    groups = np.arange(1000) // 25  # Four of each class.
    found = mirror_test(plain, mirrored, labels, names(10), groups)
    assert found.verdict is FlipVerdict.OPEN
    assert "too few independent" in found.reason


def test_a_class_that_half_changes_in_the_mirror_leaves_it_open_though_the_loss_is_small() -> None:
    labels = labels_of(60, 40)
    seen = labels.copy()
    seen[(labels == 9) & (np.arange(2400) % 2 == 0)] = 8
    plain, mirrored = answers(labels, 60, 8.0, 0), answers(seen, 60, 8.0, 1)
    found = mirror_test(plain, mirrored, labels, names(60))
    assert found.verdict is FlipVerdict.OPEN
    assert "'class 8' and 'class 9' are mixed up when mirrored" in found.reason
