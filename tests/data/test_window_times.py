"""Parts of windows that are cut in time through recordings."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.samples import Samples
from lepton_automl.data.splits.window_times import split_windows
from lepton_automl.errors import DataError


def table(path, recordings, *, restarts):
    """Recordings of 400 rows with changing labels, one after the other or with clocks from 0."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "time", "x", "y", "label"])
        for n in range(recordings):
            for k in range(400 + 100 * n * restarts):
                when = k if restarts else 10_000 * n + k
                writer.writerow([n, when, *rng.normal(size=2).round(5), "ab"[k // 40 % 2]])
    return path


def values_of(part):
    """Recording and place of each value, from the names of the windows."""
    found = set()
    for place in part.ids:
        name, _, span = place.removesuffix("]").partition("[")
        start, stop = map(int, span.split(":"))
        found |= {(name, n) for n in range(start, stop)}
    return found


@pytest.mark.parametrize(("restarts", "said"), [(True, "own clock"), (False, "the same times")])
def test_no_value_is_in_two_parts_and_later_parts_are_later(tmp_path, restarts, said):
    data = table(tmp_path / "a.csv", 4, restarts=restarts)
    dataset = open_dataset(data, time="time", group="none", window=20, stride=5)
    train, validation, test = map(values_of, dataset.parts)
    assert not train & validation
    assert not train & test
    assert not validation & test
    for name in {name for name, _ in train | validation | test}:
        ends = [[k for n, k in part if n == name] for part in (train, validation, test)]
        first, second, third = (each or [None] for each in ends)
        if first[0] is not None and third[0] is not None:
            assert max(first) < min(third)
        if second[0] is not None and third[0] is not None:
            assert max(second) < min(third)
    for part in dataset.parts:  # Blocks of time of 80 values count in intervals.
        places = [place.removesuffix("]").partition("[") for place in part.ids]
        blocks = [(name, int(span.partition(":")[0]) // 80) for name, _, span in places]
        pairs = {*zip(blocks, part.groups.tolist(), strict=True)}
        assert len(pairs) == len(set(blocks)) == len(set(part.groups.tolist()))
    (made,) = [each for each in dataset.decisions if each.name == "parts"]
    assert said in made.choice
    assert "windows with values of two parts are left out" in made.choice
    recordings = {name for name, _ in test}
    assert len(recordings) == (4 if restarts else 1)


def test_one_recording_is_cut_and_several_are_kept_whole(tmp_path):
    alone = open_dataset(table(tmp_path / "a.csv", 1, restarts=False), time="time", window=20)
    assert all(map(len, alone.parts))
    whole = open_dataset(table(tmp_path / "b.csv", 6, restarts=False), time="time", window=20)
    names = [{name for name, _ in values_of(part)} for part in whole.parts]
    assert names[2] == {"5"}
    assert sum(map(len, names)) == 6
    with pytest.raises(DataError, match="2 different times") as caught:
        open_dataset(table(tmp_path / "c.csv", 2, restarts=False), time="time", window=20)
    assert "--group none" in caught.value.fix


def test_recordings_in_folders_have_the_times_of_their_column(tmp_path):
    for n in range(8):
        path = tmp_path / "d" / "ab"[n % 2] / f"{n}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.column_stack([1000 * n + np.arange(60), np.random.default_rng(n).normal(size=60)])
        np.savetxt(path, rows, "%.9g", ",", header="t,x", comments="")
    dataset = open_dataset(tmp_path / "d", time="t", window=20)
    found = [sorted({int(place.split("/")[1][0]) for place in p.ids}) for p in dataset.parts]
    assert found == [[0, 1, 2, 3, 4, 5], [6], [7]]


def test_a_part_of_which_no_window_is_left_is_refused():
    starts = np.arange(8) * 5
    samples = Samples(
        pictures=np.zeros((8, 40, 1), np.float32),
        labels=np.arange(8) % 2,
        class_names=("a", "b"),
        ids=tuple(map(str, range(8))),
        spans=np.stack([np.zeros(8, np.int64), starts, starts + 40], 1),
    )
    with pytest.raises(DataError, match="share values with an earlier part"):
        split_windows(samples, starts + 39.0)


def test_without_groups_and_times_recordings_stay_whole_where_there_are_enough(tmp_path):
    data = table(tmp_path / "a.csv", 6, restarts=True)
    whole = open_dataset(data, group="none", window=20)
    names = [{name for name, _ in values_of(part)} for part in whole.parts]
    assert sum(map(len, names)) == 6
    few = open_dataset(table(tmp_path / "b.csv", 2, restarts=True), group="none", window=20)
    (made,) = [each for each in few.decisions if each.name == "groups"]
    assert "neighbours share values" in made.choice
    assert made.certainty == "assumed"


def test_validation_is_cut_from_training_beside_other_test_data(tmp_path):
    data = table(tmp_path / "a.csv", 3, restarts=False)
    test = table(tmp_path / "b.csv", 2, restarts=False)
    dataset = open_dataset(data, test=test, time="time", group="none", window=20, stride=5)
    train, validation, _ = map(values_of, dataset.parts)
    assert validation
    assert not train & validation
