from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.data.dataset import Part
from lepton_automl.data.folds import (
    FEW_GROUPS,
    SMALL,
    assign_folds,
    delete_fold_files,
    fold_files,
    is_small,
)
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.tensors import load_labelled
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.option_texts import MAX_FOLDS


def part(labels, groups=None, *, first: int = 0, near=None, digests=None) -> Part:
    """A part whose samples are numbered from `first`."""
    count = len(labels)
    return Part(
        name="",
        labels=np.array(labels, np.int64),
        groups=None if groups is None else np.array(groups, np.int64),
        ids=tuple(str(first + n) for n in range(count)),
        pictures=np.zeros((count, 2, 2, 1), np.uint8),
        digests=digests or tuple(b"%d" % (first + n) for n in range(count)),
        near_duplicates=None if near is None else np.array(near, np.int64),
    )


def numbers(values) -> list[int]:
    return np.asarray(values).tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=60),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 5),
)
def test_folds_keep_groups_whole_and_train_on_every_class(
    labels, validation_labels, groups, has_groups, seed
) -> None:
    draws = np.random.default_rng(seed)
    own = draws.integers(0, groups, len(labels)) if has_groups else None
    # Groups of the validation part are its own, as the product splits them.
    other = 100 + draws.integers(0, 3, len(validation_labels)) if has_groups else None
    train, validation = part(labels, own), part(validation_labels, other, first=1000)
    folds = assign_folds(train, validation, seed)
    pool = np.array([*labels, *validation_labels])
    assert 1 <= folds.count <= MAX_FOLDS
    assert numbers(folds.evaluated_index(0)) == list(range(len(labels), len(pool)))
    for fold in range(folds.count):
        trained, evaluated = folds.training_index(fold), folds.evaluated_index(fold)
        assert len(evaluated)
        assert sorted([*trained, *evaluated]) == list(range(len(pool)))
        if fold:
            assert set(pool[trained]) == set(pool.tolist())
            assert len(trained) >= len(labels) / 2
        if own is not None:
            both = np.concatenate([own, other])
            assert not set(both[trained]) & set(both[evaluated])
    again = assign_folds(train, validation, seed)
    assert numbers(again.of_sample) == numbers(folds.of_sample)


def test_without_groups_folds_have_the_size_of_validation_and_its_classes() -> None:
    labels = np.repeat([0, 1, 2], [350, 175, 35])
    train, validation = part(labels), part(np.repeat([0, 1, 2], [60, 30, 6]), first=1000)
    folds = assign_folds(train, validation, 0)
    assert folds.count == 7  # 656 samples of which 96 are the validation part.
    assert (folds.of_sample >= 0).all()  # Every sample is in exactly one fold.
    for fold in range(1, folds.count):
        counts = np.bincount(folds.evaluated([fold]).labels)
        assert np.abs(counts - [350 / 6, 175 / 6, 35 / 6]).max() < 1
        assert abs(counts.sum() - 560 / 6) < 1
    assert numbers(assign_folds(train, validation, 1).of_sample) != numbers(folds.of_sample)


def test_each_of_few_groups_is_a_fold() -> None:
    groups = np.repeat([3, 5, 8, 9], 30)
    train = part(np.tile([0, 1], 60), groups)
    validation = part(np.tile([0, 1], 30), np.full(60, 4), first=1000)
    folds = assign_folds(train, validation, 0)
    assert folds.count == 5  # Folds as large as the validation part would be three.
    found = {tuple(np.unique(folds.evaluated([fold]).groups)) for fold in range(5)}
    assert found == {(3,), (4,), (5,), (8,), (9,)}


def test_samples_of_folds_stand_in_the_order_in_which_the_folds_are_asked_for() -> None:
    groups = np.repeat([3, 5, 8, 9], 30)
    train = part(np.tile([0, 1], 60), groups)
    validation = part(np.tile([0, 1], 30), np.full(60, 4), first=1000)
    folds = assign_folds(train, validation, 0)
    every = np.concatenate([groups, validation.groups])
    for order in ([0, 1, 2], [2, 0, 1], [4, 3]):
        wanted = [n for fold in order for n in range(180) if folds.of_sample[n] == fold]
        assert numbers(folds.evaluated(order).groups) == numbers(every[wanted])


@pytest.mark.parametrize("is_balanced", [True, False])
def test_the_accuracy_on_folds_weighs_classes_as_the_data_do(is_balanced: bool) -> None:
    train = part(np.repeat([0, 1], [90, 30]))
    validation = part(np.repeat([0, 1], [30, 10]), first=1000)
    train, validation = (
        dataclasses.replace(each, is_balanced=is_balanced) for each in (train, validation)
    )
    samples = assign_folds(train, validation, 0).evaluated([0, 1])
    # All answers are the first class: three of four samples are right, one of two classes.
    answered = np.zeros(len(samples), np.int64)
    known = balanced_accuracy_score(samples.labels, answered) if is_balanced else 0.75
    assert balanced_mean(answered == samples.labels, samples.strata) == pytest.approx(known)


def test_many_groups_share_folds_that_are_about_as_large_as_validation() -> None:
    draws = np.random.default_rng(0)
    train = part(draws.integers(0, 3, 340), np.repeat(np.arange(17), 20))
    validation = part(draws.integers(0, 3, 60), np.repeat([20, 21, 22], 20), first=1000)
    folds = assign_folds(train, validation, 0)
    assert folds.count == 7
    sizes = np.bincount(folds.of_sample)
    assert sizes.min() >= 40
    assert sizes.max() <= 80


def test_near_duplicates_and_equal_pictures_stay_together() -> None:
    labels = np.tile([0, 1], 40)
    near = np.arange(80)
    near[[10, 30, 50]] = 10
    digests = tuple(b"same" if n in {21, 41, 61} else b"%d" % n for n in range(80))
    train = part(labels, near=near, digests=digests)
    validation = part(np.tile([0, 1], 7), near=np.arange(100, 114), first=1000)
    for seed in range(10):
        of_sample = assign_folds(train, validation, seed).of_sample
        assert len(set(of_sample[[10, 30, 50]])) == 1
        assert len(set(of_sample[[21, 41, 61]])) == 1
        assert of_sample[[10, 21]].min() > 0


def test_what_belongs_to_validation_pictures_is_in_no_other_fold() -> None:
    near = [*range(40)]
    train = part(np.tile([0, 1], 20), near=near)
    validation = part(np.tile([0, 1], 5), near=[7, *range(50, 59)], first=1000)
    folds = assign_folds(train, validation, 0)
    assert folds.of_sample[7] == -1
    assert all(7 in folds.training_index(fold) for fold in range(folds.count))
    one = assign_folds(part([0, 1], [1, 1]), part([0, 1], [1, 1], first=10), 0)
    assert one.count == 1


def test_a_group_that_leaves_too_little_to_train_on_is_no_fold() -> None:
    groups = np.repeat([0, 1, 2], [150, 20, 20])
    train = part(np.tile([0, 1], 95), groups)
    validation = part(np.tile([0, 1], 10), np.full(20, 7), first=1000)
    folds = assign_folds(train, validation, 0)
    assert folds.count == 3
    assert set(folds.of_sample[:150]) == {-1}


@pytest.mark.parametrize(
    ("train", "validation", "groups", "small"),
    [
        (SMALL - 100, 99, None, True),
        (SMALL - 100, 100, None, False),
        (SMALL, 100, FEW_GROUPS - 1, True),
        (SMALL, 100, FEW_GROUPS, False),
    ],
)
def test_few_samples_or_few_groups_are_small(train, validation, groups, small) -> None:
    own = None if groups is None else np.arange(train) % (groups - 1)
    other = None if groups is None else np.full(validation, 100)
    parts = part(np.arange(train) % 2, own), part(np.arange(validation) % 2, other)
    assert is_small(*parts) is small


def test_files_of_a_fold_hold_its_pictures_and_can_be_deleted(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    np.savez(
        tmp_path / "d.npz", x=draws.integers(0, 256, (90, 9, 8, 1), np.uint8), y=np.arange(90) % 3
    )
    data, cache = open_dataset(str(tmp_path / "d.npz")), tmp_path / "cache"
    cache.mkdir()
    folds = assign_folds(data.train, data.validation, 0)
    pixels = np.concatenate([data.train.pictures, data.validation.pictures])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    for fold in range(3):
        index = folds.training_index(fold), folds.evaluated_index(fold)
        if not fold:  # Both parts as they are.
            index = np.arange(len(data.train)), len(data.train) + np.arange(len(data.validation))
        for own, files in zip(index, fold_files(data, folds, fold, (9, 8), cache), strict=True):
            loaded = load_labelled(files)
            np.testing.assert_array_equal(loaded.pixels, pixels[own])
            np.testing.assert_array_equal(loaded.labels, labels[own])
    kept = {path.name for path in cache.glob("*.npy") if not path.name.startswith("fold-")}
    assert len(kept) == 4
    assert len(list(cache.glob("*.npy"))) == 4 + 2 * 4
    delete_fold_files(cache)
    assert {path.name for path in cache.glob("*.npy")} == kept
    assert not list(cache.glob("fold-*"))


def test_files_of_another_division_are_not_taken_for_those_of_a_fold(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (90, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(90) % 3)
    data = open_dataset(str(tmp_path / "d.npz"))
    pixels = np.concatenate([data.train.pictures, data.validation.pictures])
    divisions = [assign_folds(data.train, data.validation, seed) for seed in (0, 1)]
    sizes = {len(folds.evaluated_index(1)) for folds in divisions}
    assert len(sizes) == 1  # So that the shapes of the files do not tell them apart.
    for folds in divisions:
        trained, evaluated = fold_files(data, folds, 1, (4, 4), tmp_path)
        for files, is_own in ((trained, folds.of_sample != 1), (evaluated, folds.of_sample == 1)):
            np.testing.assert_array_equal(load_labelled(files).pixels, pixels[is_own])
