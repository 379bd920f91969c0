"""Parts that are cut in time: `split_by_time` and the times it reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_automl.data.splits.split import split_by_time
from lepton_automl.data.splits.times import read_times
from lepton_automl.errors import DataError

NAMES = ("a", "b")


def seconds(*texts):
    needed = np.full(len(texts), True)
    return read_times("when", texts, [f"row {n}" for n in range(len(texts))], needed).seconds


def parts_of(times, groups=None, parts=None):
    labels = np.arange(len(times)) % 2
    groups = None if groups is None else np.array(groups)
    return split_by_time(labels, NAMES, parts, groups, np.array(times, float))


def test_the_latest_15_percent_are_test_and_the_15_before_validation():
    parts = parts_of(np.arange(200)[::-1])
    assert parts.tolist() == ["test"] * 30 + ["validation"] * 30 + ["train"] * 140


def test_a_given_test_part_stays_and_validation_is_the_end_of_the_rest():
    given_parts = np.where(np.arange(100) < 20, "test", "")
    parts = parts_of(np.arange(100), parts=given_parts)
    assert parts.tolist() == ["test"] * 20 + ["train"] * 68 + ["validation"] * 12


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), min_size=8, max_size=60),
    has_groups=st.booleans(),
)
def test_no_training_sample_is_later_than_the_cut_and_groups_stay_whole(rows, has_groups):
    times, groups = np.array(rows).T
    groups = groups if has_groups else np.arange(len(rows))
    ends = np.array([times[groups == group].max() for group in groups])
    try:
        parts = parts_of(times, groups)
    except DataError:
        early = len(np.unique(ends)) < 3
        # A class may only be seen after the cut.
        assert early or len(rows) < 30 or has_groups
        return
    assert set(parts) == {"train", "validation", "test"}
    for group in np.unique(groups):
        assert len(set(parts[groups == group])) == 1
    for earlier, later in (("train", "validation"), ("validation", "test")):
        assert times[parts == earlier].max() < ends[parts == later].min()


def test_too_few_times_and_a_class_that_comes_late_are_refused():
    with pytest.raises(DataError, match="2 different times"):
        parts_of([1, 2] * 10)
    labels = np.arange(40) // 30
    with pytest.raises(DataError, match="train has no pictures of 'b'"):
        split_by_time(labels, NAMES, None, None, np.arange(40.0))


@pytest.mark.parametrize(
    "texts",
    [
        ("3", "20", "100.5"),
        ("2023-12-31", "2024-01-01", "2024-01-01T00:00:01"),
        ("2024-05-01 10:00", "2024-05-01 10:30", "2024-05-02"),
        ("2024:05:01 10:00:00", "2024:05:01 10:00:01", "2024:05:02"),
        ("2024-05-01T10:00+02:00", "2024-05-01T10:00Z", "2024-05-01T10:00-02:00"),
        ("1969-12-31", "1970-01-01", "2001-01-01"),
    ],
)
def test_numbers_and_dates_are_read_in_their_order(texts):
    assert (np.diff(seconds(*texts)) > 0).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("1", "yesterday"), "'yesterday' of row 1 is not a time"),
        (("1", ""), "'' of row 1"),
        (("1", "nan"), "'nan' of row 1"),
        (("2024", "2024-05-01"), "'2024' of row 0 is a number, '2024-05-01' of row 1 a date"),
        (("2024-05-01T10:00", "2024-05-01T10:00Z"), "without a time zone"),
    ],
)
def test_what_is_no_time_or_of_two_forms_is_refused(texts, message):
    with pytest.raises(DataError, match=message):
        seconds(*texts)


def test_times_of_given_parts_need_not_be_there():
    needed = np.array([True, False, True])
    assert np.isnan(read_times("when", ("1", "", "2"), ["a", "b", "c"], needed).seconds[1])
