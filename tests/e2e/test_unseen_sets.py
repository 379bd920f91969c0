"""The sets that no default was chosen on, and the results file of their benchmark."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

from benchmarks import unseen_data
from benchmarks.common import read_rows
from benchmarks.quality import unseen_sets


@pytest.mark.parametrize("colour", [False, True])
def test_drawn_characters_follow_from_the_seed_and_parts_share_none(colour):
    first = unseen_data.characters("AB7", 30, 16, seed=0, colour=colour)
    again = unseen_data.characters("AB7", 30, 16, seed=0, colour=colour)
    other = unseen_data.characters("AB7", 30, 16, seed=1, colour=colour)
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert first[0].shape == (30, 16, 16, 3) if colour else (30, 16, 16)
    assert set(first[1]) == {0, 1, 2}
    assert not {p.tobytes() for p in first[0]} & {p.tobytes() for p in other[0]}


@pytest.mark.parametrize(("channel", "cycles"), [(0, 4), (2, 8), (3, 2), (5, 12)])
def test_a_tone_of_a_sensor_is_seen_in_its_own_tile(channel, cycles):
    windows = np.zeros((1, 6, 128))
    windows[0, channel] = 9 * np.sin(2 * np.pi * cycles * np.arange(128) / unseen_data.WINDOW)
    (picture,) = unseen_data.spectra(windows)
    assert picture.shape == (34, 39)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert (row // 17, column // 13) == divmod(channel, 3)
    assert row % 17 == cycles


def test_the_class_of_a_turned_picture_is_the_number_of_its_turns():
    pictures = np.arange(4, dtype=np.uint8).reshape(1, 2, 2).repeat(40, axis=0)
    found, turns = unseen_data.quarter_turns((pictures, np.zeros(40, np.int64)), seed=0)
    assert set(turns) == {0, 1, 2, 3}
    for picture, count in zip(found, turns, strict=True):
        assert (np.rot90(picture, -count) == pictures[0]).all()


def test_a_cell_that_has_a_row_is_not_run_again(tmp_path):
    given, runs = Namespace(out=tmp_path / "rows.jsonl"), []

    def program(data, given, seed):
        runs.append((data, seed))
        return {"int8_accuracy": 0.5}

    for seed in (0, 1, 0):
        unseen_sets.record(given, ["a", 3.0, "script", seed], program, tmp_path, seed)
    assert runs == [(tmp_path, 0), (tmp_path, 1)]
    assert [row["key"][-1] for row in read_rows(given.out)] == [0, 1]


def test_the_table_shows_test_parts_only_where_asked(tmp_path, capsys):
    ours = {"int8_accuracy": 0.91, "validation": 0.87, "size_bytes": 20_000, "latency_ratio": 0.25}
    row = {"key": ["letters", 300.0, "new", 0], **ours}
    unseen_sets.table(Namespace(test=False), [row])
    assert "87.00 %, 20.0, 0.25" in (hidden := capsys.readouterr().out)
    assert "91" not in hidden
    unseen_sets.table(Namespace(test=True), [row])
    assert "91.00 %" in capsys.readouterr().out
