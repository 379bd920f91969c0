from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_automl.data.splits.split import split
from lepton_automl.errors import DataError

NAMES = tuple("abcdefgh")


def counts(parts, labels, part):
    return np.bincount(labels[parts == part], minlength=labels.max() + 1).tolist()


def test_undivided_data_are_divided_70_15_15_in_every_class():
    labels = np.repeat([0, 1, 2], [1000, 200, 20])
    parts = split(labels, NAMES[:3], None, None, seed=0)
    assert counts(parts, labels, "train") == [700, 140, 14]
    assert counts(parts, labels, "validation") == [150, 30, 3]
    assert counts(parts, labels, "test") == [150, 30, 3]


def test_a_given_test_part_stays_and_validation_is_15_percent_of_the_rest():
    labels = np.tile([0, 1], 120)
    given_parts = np.where(np.arange(240) < 40, "test", "train")
    parts = split(labels, NAMES[:2], given_parts, None, seed=0)
    np.testing.assert_array_equal(parts == "test", given_parts == "test")
    assert counts(parts, labels, "validation") == [15, 15]


def test_a_full_split_is_kept_as_it_is():
    given_parts = np.array(["train", "validation", "test"] * 4)
    parts = split(np.repeat([0, 1], 6), NAMES[:2], given_parts, None, seed=0)
    np.testing.assert_array_equal(parts, given_parts)


def test_the_seed_decides():
    labels = np.tile([0, 1], 100)
    first, again, other = (split(labels, NAMES[:2], None, None, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=80),
    seed=st.integers(0, 9),
    has_test=st.booleans(),
)
def test_every_class_is_in_every_part_that_is_drawn_or_it_is_refused(labels, seed, has_test):
    labels = np.array(labels)
    given_parts = np.full(len(labels), "", "<U10")
    if has_test:
        given_parts[0] = "test"
    rest = labels[given_parts == ""]
    needed = 2 if has_test else 3
    if min(np.bincount(rest, minlength=4)) < needed:
        with pytest.raises(DataError, match=f"needs at least {needed}"):
            split(labels, NAMES[:4], given_parts, None, seed)
        return
    parts = split(labels, NAMES[:4], given_parts, None, seed)
    for part in ("train", "validation") if has_test else ("train", "validation", "test"):
        assert min(counts(parts, labels, part)) >= 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=30), st.integers(0, 9))
def test_groups_stay_together(pairs, seed):
    groups, labels = np.array(pairs).T
    try:
        parts = split(labels, NAMES[:3], None, groups, seed)
    except DataError:
        return
    for group in np.unique(groups):
        assert len(set(parts[groups == group])) == 1


def test_groups_come_near_the_shares_in_every_class():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 100, 3000)
    labels = (groups % 3 + rng.integers(0, 2, 3000)) % 3
    parts = split(labels, NAMES[:3], None, groups, seed=0)
    for part, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        shares = np.array(counts(parts, labels, part)) / np.bincount(labels)
        np.testing.assert_allclose(shares, share, atol=0.03)


def test_one_class_is_refused():
    with pytest.raises(DataError, match="1 class"):
        split(np.zeros(20, int), ("cat",), None, None, seed=0)


def test_one_picture_a_class_is_refused_with_the_rule():
    with pytest.raises(DataError, match="every class needs at least 3") as caught:
        split(np.arange(3), NAMES[:3], None, None, seed=0)
    assert "'a' has 1" in caught.value.what
    assert caught.value.exit_code == 3


def test_a_class_that_is_only_in_a_given_test_part_is_refused():
    labels, parts = np.array([0] * 9 + [1]), np.array(["train"] * 9 + ["test"])
    with pytest.raises(DataError, match="'b' has 0"):
        split(labels, NAMES[:2], parts, None, seed=0)


def test_the_only_group_of_a_class_goes_to_train():
    # One group fills train with class a, so by size the only group with class b goes elsewhere.
    groups = np.concatenate([np.zeros(800, int), np.repeat(np.arange(1, 21), 10), np.ones(4, int)])
    labels = np.repeat([0, 1], [1000, 4])
    parts = split(labels, NAMES[:2], None, groups, seed=0)
    assert set(parts[labels == 1]) == {"train"}
    assert set(parts) == {"train", "validation", "test"}


def test_a_class_that_groups_keep_out_of_train_is_refused():
    groups, labels = np.repeat([0, 1, 2], 10), np.repeat([0, 1, 1], 10)
    labels[:3], labels[10:13] = 2, 0  # Train would need two of the three groups.
    with pytest.raises(DataError, match="train has no pictures of"):
        split(labels, NAMES[:3], None, groups, seed=0)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(3, 8), seed=st.integers(0, 50), sizes=st.integers(0, 3))
def test_three_groups_or_more_give_three_parts_with_every_class(count, seed, sizes):
    """However unequal the groups are: no part is empty where each has all classes."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), 4 + rng.integers(0, 1 + 100 * sizes, count))
    labels = np.arange(len(groups)) % 2
    parts = split(labels, NAMES[:2], None, groups, seed)
    for part in ("train", "validation", "test"):
        assert min(counts(parts, labels, part)) > 0
    assert all(len(set(parts[groups == group])) == 1 for group in range(count))


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_groups_than_parts_are_refused_with_their_names(count):
    labels, groups = np.arange(60) % 2, np.arange(60) * count // 60
    ids = [f"patient{group}/{n}.png" for n, group in enumerate(groups)]
    with pytest.raises(DataError, match=r"one group|2 groups") as caught:
        split(labels, NAMES[:2], None, groups, 0, ids)
    assert f"patient{count - 1}/" in caught.value.what
    assert "--group none" in caught.value.fix
    assert caught.value.exit_code == 3
    has_test = np.where(np.arange(60) < 20, "test", "")
    if count == 2:  # With a test part of its own two groups are enough.
        parts = split(labels, NAMES[:2], has_test, (np.arange(60) // 40), 0, ids)
        assert set(parts) == {"train", "validation", "test"}


def test_groups_that_are_the_classes_are_refused():
    labels = np.arange(40) % 4
    with pytest.raises(DataError, match="each of the 4 classes is one group"):
        split(labels, NAMES[:4], None, labels, seed=0)


def test_a_rare_class_in_few_groups_reaches_every_part():
    groups = np.repeat(np.arange(100), 10)
    labels = ((groups < 6) & (np.arange(1000) % 2 == 0)).astype(int)
    for seed in range(5):
        parts = split(labels, NAMES[:2], None, groups, seed)
        assert all(counts(parts, labels, part)[1] for part in np.unique(parts))


def test_of_very_many_groups_those_of_one_sample_are_drawn_by_class(monkeypatch):
    monkeypatch.setattr(sys.modules[split.__module__], "_MAX_COUNTS", 100)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2000)
    groups = np.arange(2000)
    groups[:400] = labels[:400] * 50 + np.arange(400) % 10  # Fifty groups of about eight.
    groups[400:] += 1000
    parts = split(labels, tuple("abcde"), None, groups, seed=3)
    for group in np.unique(groups[:400]):
        assert len(set(parts[groups == group])) == 1
    for part, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        assert abs((parts == part).mean() - share) < 0.03
        assert set(labels[parts == part]) == set(range(5))
    assert (split(labels, tuple("abcde"), None, groups, seed=3) == parts).all()
