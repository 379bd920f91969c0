from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from lepton_automl.data.layouts import series_tables
from lepton_automl.data.layouts.series_tables import read_several
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.manifest import Manifest
from lepton_automl.data.sources.recordings import Recordings
from lepton_automl.errors import ConfigError, DataError

CLASSES = ("run", "walk", "sit")


def rows_of(recordings=9, length=60, change=False):
    """Rows of recordings with three persons, one label each or a change in the middle."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(recordings):
        for k in range(length):
            label = CLASSES[(n + (change and k >= length // 2)) % 3]
            x, y, z = rng.normal(0, 3, 3).round(6)
            made.append(
                {
                    "subject": f"p{n % 3}",
                    "session": n,
                    "t": 100 * n + k * 0.02,
                    "x": x,
                    "y": y,
                    "z": z,
                    "activity": label,
                }
            )
    return made


def write(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def example(folder):
    return write(folder / "sensors.csv", rows_of())


def test_windows_are_the_rows_of_one_recording_in_their_order(tmp_path):
    """Oracle: the rows that were written, found by session and number."""
    rows = rows_of()
    data = write(tmp_path / "sensors.csv", rows, ";")
    samples = Manifest(window=20, stride=10).read(data)
    assert samples.channel_names == ("x", "y", "z")
    assert len(samples) == 9 * 5
    for place, window, label, group, session in zip(
        samples.ids,
        samples.signals,
        samples.labels,
        samples.groups,
        samples.attributes["session"],
        strict=True,
    ):
        start, stop = map(int, place.removesuffix("]").partition("[")[2].split(":"))
        own = [row for row in rows if str(row["session"]) == session][start:stop]
        expected = np.array([[row[name] for name in "xyz"] for row in own], np.float32)
        np.testing.assert_array_equal(window, expected)
        assert samples.class_names[label] == own[0]["activity"]
        assert group == int(own[0]["subject"][1])
    assert len(set(samples.recordings.tolist())) == 9
    assert "label is activity, recording is session, time is t, group is subject" in str(
        samples.decisions
    )


def test_interleaved_recordings_are_put_apart(tmp_path):
    rows = rows_of(6, 40)
    data = write(tmp_path / "a.csv", sorted(rows, key=lambda row: row["t"] % 100))
    ordered = write(tmp_path / "b.csv", rows)
    one, other = (Manifest(window=20).read(name) for name in (data, ordered))
    found = {name: v.tobytes() for name, v in zip(one.ids, one.signals, strict=True)}
    assert found == {n: v.tobytes() for n, v in zip(other.ids, other.signals, strict=True)}


def test_a_window_takes_the_label_of_three_quarters_of_its_rows_or_is_left_out(tmp_path):
    rows = rows_of(9, 80, change=True)
    samples = Manifest(window=20, stride=5).read(write(tmp_path / "a.csv", rows))
    starts = samples.spans[:, 1]
    assert sorted(set(starts.tolist())) == [n for n in range(0, 65, 5) if n != 30]
    for (number, start, stop), label in zip(samples.spans, samples.labels, strict=True):
        own = [row["activity"] for row in rows if row["session"] == number][start:stop]
        assert own.count(samples.class_names[label]) >= 15
    assert samples.recordings is None  # Recordings have several labels.
    (made,) = [each for each in samples.decisions if each.name == "labels of windows"]
    assert "9 windows of which no label has so many are left out" in made.choice


def test_rows_without_a_label_give_no_window_of_their_own(tmp_path):
    rows = rows_of(9, 80)
    for row in rows[::80]:
        row["activity"] = ""
    for row in rows[:80]:
        row["activity"] = ""
    samples = Manifest(window=20, stride=20).read(write(tmp_path / "a.csv", rows))
    assert sorted(set(samples.spans[:, 0].tolist())) == list(range(1, 9))
    assert len(samples) == 8 * 4
    assert "1 of 9 recordings have no window with a label" in samples.notes[0]


def test_no_window_crosses_a_gap_or_a_fall_of_the_time(tmp_path):
    rows = rows_of(6, 100)
    for n, row in enumerate(rows):
        if n % 100 >= 50:
            row["t"] = row["t"] + 60 if n < 300 else row["t"] - 50
    samples = Manifest(window=20, stride=7).read(write(tmp_path / "a.csv", rows))
    assert len(samples) == 6 * 2 * 5
    assert not ((samples.spans[:, 1] < 50) & (samples.spans[:, 2] > 50)).any()
    (made,) = [each for each in samples.decisions if each.name == "gaps"]
    assert "6 places where t falls or leaves a gap" in made.choice


def test_parts_of_rows_stay_and_no_window_is_in_two(tmp_path):
    rows = rows_of(9, 100)
    for n, row in enumerate(rows):
        row["split"] = "test" if n % 100 >= 75 else "train"
    samples = Manifest(window=20, stride=10).read(write(tmp_path / "a.csv", rows))
    ends = {part: samples.spans[samples.parts == part] for part in ("train", "test")}
    assert ends["train"][:, 2].max() <= 75 <= ends["test"][:, 1].min()
    assert len(ends["test"]) == 9


def test_sessions_of_one_name_are_recordings_of_their_persons(tmp_path):
    rows = rows_of(6, 40)
    for row in rows:
        row["session"] = row["session"] // 3
    samples = Manifest(window=40).read(write(tmp_path / "a.csv", rows))
    assert len(samples) == 6


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"recording": "session", "label": "none"}, "a table needs it"),
        ({"time": "when"}, "not a column"),
        ({"recording": "session", "channels": "x+q"}, "no column 'q'"),
        ({"recording": "session", "chanels": "x"}, "not a kind of column"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path, columns, said):
    with pytest.raises(ConfigError, match=said):
        Manifest(columns).read(example(tmp_path))


def test_stated_columns_are_used(tmp_path):
    columns = {"recording": "session", "channels": "x+z", "group": "none", "label": "activity"}
    samples = Manifest(columns, window=20).read(example(tmp_path))
    assert samples.channel_names == ("x", "z")
    assert len(set(samples.groups.tolist())) == 9


def test_a_value_that_is_no_number_is_named_with_its_line(tmp_path):
    rows = rows_of()
    rows[70]["y"] = "n/a"
    with pytest.raises(DataError, match=r"line 72: 'n/a' in the column 'y' is not a number"):
        Manifest({"recording": "session"}).read(write(tmp_path / "a.csv", rows))


@pytest.mark.parametrize("drop", [("session", "subject", "t"), ("session", "subject")])
def test_a_table_of_numbers_that_shows_no_time_is_asked_about(tmp_path, drop):
    rows = [{k: v for k, v in row.items() if k not in drop} for row in rows_of(5, 30)]
    for n, row in enumerate(rows):
        row["activity"] = n % 2
    with pytest.raises(DataError, match="is a table of numbers") as caught:
        Manifest().read(write(tmp_path / "a.csv", rows))
    assert "--columns recording=COLUMN" in caught.value.fix
    assert "scikit-learn" in caught.value.fix


def test_one_recording_with_regular_times_is_recognised(tmp_path):
    rows = [
        {"timestamp": f"2024-05-01T00:{n // 60:02}:{n % 60:02}", "x": n % 7, "label": n // 100}
        for n in range(400)
    ]
    samples = Manifest(window=50).read(write(tmp_path / "a.csv", rows))
    assert samples.channel_names == ("x",)
    assert samples.class_names == ("0", "1", "2", "3")


def test_files_beside_each_other_with_labels_in_their_rows(tmp_path):
    for n in range(6):
        own = [{"time": k, "a": n, "b": k, "label": CLASSES[k // 30 % 3]} for k in range(90)]
        write(tmp_path / "d" / f"s{n}.csv", own)
    samples = Recordings(window=30, stride=30).read(str(tmp_path / "d"))
    assert samples.ids == tuple(f"s{n}.csv[{k}:{k + 30}]" for n in range(6) for k in (0, 30, 60))
    assert [samples.class_names[n] for n in samples.labels] == list(CLASSES) * 6
    dataset = open_dataset(tmp_path / "d", window=30)
    owners = [{place.partition("[")[0] for place in part.ids} for part in dataset.parts]
    assert sum(map(len, owners)) == 6
    write(tmp_path / "d" / "s9.csv", [{"time": 1, "a": 2, "label": "run"}] * 60)
    with pytest.raises(DataError, match=r"s9.csv has no column 'b'"):
        Recordings().read(str(tmp_path / "d"))


def test_a_table_of_recordings_gives_labels_persons_and_parts(tmp_path):
    """Oracle: the same files in folders of their classes."""
    rng = np.random.default_rng(1)
    index = []
    for n in range(9):
        values = rng.normal(0, 2, (50 + n, 2)).astype(np.float32)
        for place in (tmp_path / "flat", tmp_path / "tree" / CLASSES[n % 3]):
            place.mkdir(parents=True, exist_ok=True)
            np.savetxt(place / f"r{n}.csv", values, "%.9g", ",", header="x,y", comments="")
        index.append(
            {"file": f"r{n}.csv", "label": CLASSES[n % 3], "subject": f"p{n // 2}", "site": n}
        )
    data = write(tmp_path / "flat" / "index.csv", index)
    samples = Manifest(window=25).read(data)
    other = Recordings(window=25).read(str(tmp_path / "tree"))
    np.testing.assert_array_equal(samples.signals, other.signals)
    np.testing.assert_array_equal(samples.labels, other.labels)
    people = [index[int(place[1])]["subject"] for place in samples.ids]
    assert len({*zip(people, samples.groups.tolist(), strict=True)}) == len(set(people)) == 5
    assert samples.attributes["site"] == tuple(place[1] for place in samples.ids)
    with pytest.raises(DataError, match="a table of the recordings beside it"):
        Recordings().read(str(tmp_path / "flat"))


def test_a_window_has_no_effect_on_a_table_of_pictures(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    data = write(tmp_path / "a.csv", [{"path": "1.png", "label": "cat"}])
    with pytest.raises(ConfigError, match="a table of pictures"):
        Manifest(window=5).read(data)


def test_rows_whose_recordings_are_not_there_are_left_out_on_request(tmp_path):
    rows = [{"file": f"r{n}.csv", "label": CLASSES[n % 3]} for n in range(9)]
    data = write(tmp_path / "index.csv", rows)
    for row in rows[1:]:
        np.savetxt(tmp_path / row["file"], np.zeros((30, 2)), delimiter=",")
    with pytest.raises(DataError, match="1 of 9") as caught:
        Manifest().read(data)
    assert "--skip-corrupt" in caught.value.fix
    samples = Manifest(skip_corrupt=True).read(data)
    assert len(samples) == 8
    assert "ignored 1 of 9 recordings" in samples.notes[0]


def test_recordings_in_a_table_to_be_classified_are_put_apart(tmp_path):
    """Oracle: the rows that were written; labels are not needed."""
    rows = [{k: v for k, v in row.items() if k != "activity"} for row in rows_of(6, 50)]
    data = write(tmp_path / "a.csv", sorted(rows, key=lambda row: row["t"] % 100))
    found = read_several(Path(data), 20, ("z", "x"))
    assert [name for name, _ in found] == [f"p{n % 3} {n}" for n in range(6)]
    for n, (_, windows) in enumerate(found):
        assert windows.starts == (0, 10, 20, 30)
        own = [row for row in rows if row["session"] == n]
        for start, values in zip(windows.starts, windows.values, strict=True):
            expected = [[row["z"], row["x"]] for row in own[start : start + 20]]
            np.testing.assert_array_equal(values, np.array(expected, np.float32))
    strided = read_several(Path(data), 20, ("z", "x"), 15)
    assert [windows.starts for _, windows in strided] == [(0, 15, 30)] * 6
    tabs = tmp_path / "a.tsv"
    tabs.write_text(Path(data).read_text().replace(",", "\t"))
    again = read_several(tabs, 20, ("z", "x"))
    assert [name for name, _ in again] == [name for name, _ in found]
    assert all(map(np.array_equal, (w.values for _, w in again), (w.values for _, w in found)))
    assert read_several(Path(data), 20, ("x", "q")) is None
    one = write(tmp_path / "b.csv", rows[:50])
    assert read_several(Path(one), 20, ("x",)) is None
    with pytest.raises(DataError, match="no recording has 51 rows"):
        read_several(Path(data), 51, ("x",))


def test_too_many_recordings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(series_tables, "_MOST_RECORDINGS", 8)
    with pytest.raises(DataError, match="names 9 recordings in 540 rows, at most 8"):
        Manifest().read(example(tmp_path))


def test_values_over_time_without_a_known_label_ask_for_it(tmp_path):
    """As the UEA page has S06R02E0 of Daphnet: times, sensors, and `is_anomaly`."""
    names = {"t": "timestamp", "x": "x", "y": "y", "z": "z"}
    rows = [{names[k]: v for k, v in row.items() if k in names} for row in rows_of(1, 300)]
    for n, row in enumerate(rows):
        row["is_anomaly"] = n // 20 % 2
    data = write(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=r"over time .* no column is named as a label") as caught:
        Manifest().read(data)
    assert caught.value.fix == "state which: --columns label=is_anomaly"
    samples = Manifest(columns={"label": "is_anomaly"}, window=16, stride=4).read(data)
    assert samples.channel_names == ("x", "y", "z")
    assert samples.class_names == ("0", "1")
