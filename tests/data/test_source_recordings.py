from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.data.loading import find_source
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.recordings import Recordings
from lepton_automl.errors import ConfigError, DataError


def write(path, values, head="x,y,z"):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, values, delimiter=",", fmt="%.9g", header=head, comments="")


def values(length, seed=0, channels=3):
    return np.random.default_rng(seed).normal(0, 3, (length, channels)).astype(np.float32)


def tree(root, lengths, classes=("run", "walk"), part=""):
    """Recordings of these lengths a class, by their paths below the root."""
    made = {}
    for n, name in enumerate(classes):
        for k, length in enumerate(lengths):
            made[f"{part}{name}/{k:02}.csv"] = values(length, 100 * n + k)
    for place, each in made.items():
        write(root / place, each)
    return made


def example(folder):
    tree(folder / "moves", [40, 40, 40])
    return str(folder / "moves")


def test_windows_are_pieces_of_their_recording_and_groups_the_recordings(tmp_path):
    """Oracle: each window is found again, by its name, in the array that was written."""
    made = tree(tmp_path, [100, 70, 64])
    samples = Recordings(window=32, stride=16).read(str(tmp_path))
    assert samples.class_names == ("run", "walk")
    assert len(samples) == 2 * (5 + 3 + 3)
    for place, window in zip(samples.ids, samples.signals, strict=True):
        file, _, span = place.removesuffix("]").partition("[")
        start, stop = map(int, span.split(":"))
        np.testing.assert_array_equal(window, made[file][start:stop])
        assert start % 16 == 0
        assert stop - start == 32
    files = [place.partition("[")[0] for place in samples.ids]
    assert len({*zip(files, samples.groups.tolist(), strict=True)}) == len(set(files)) == 6
    labels = [samples.class_names[n] for n in samples.labels]
    assert labels == [place.partition("/")[0] for place in samples.ids]


@pytest.mark.parametrize(("stride", "expected"), [(None, 16), (9, 9)])
def test_the_data_say_how_far_windows_are_apart(tmp_path, stride, expected):
    tree(tmp_path, [100, 70, 64, 50, 81, 90])
    dataset = open_dataset(str(tmp_path), window=32, stride=stride)
    assert dataset.window_stride == expected


@pytest.mark.parametrize(
    ("lengths", "window", "count"), [([60, 60], 60, 2), ([300, 200], 128, 5), ([60, 90], 60, 3)]
)
def test_without_a_stated_window_recordings_of_one_length_are_whole(
    tmp_path, lengths, window, count
):
    tree(tmp_path, lengths)
    samples = Recordings().read(str(tmp_path))
    assert samples.signals.shape == (2 * count, window, 3)
    (made,) = samples.decisions
    assert f"windows of {window} values" in made.choice
    assert made.option == "--window, --stride"
    assert made.certainty == ("inferred" if lengths[0] == lengths[1] else "assumed")
    assert (samples.groups is None) == (count <= 2 and lengths != [300, 200])


def test_short_recordings_are_left_out_and_named(tmp_path):
    tree(tmp_path, [50, 10])
    samples = Recordings(window=40, stride=40).read(str(tmp_path))
    assert len(samples) == 2
    assert "2 of 4 recordings are shorter" in samples.notes[0]
    assert "run/01.csv" in samples.notes[0]
    with pytest.raises(ConfigError, match="longer than all recordings"):
        Recordings(window=51).read(str(tmp_path))


def test_a_column_of_times_is_no_channel(tmp_path):
    for n, name in enumerate("ab"):
        rows = np.column_stack([np.arange(40) * 0.02, values(40, n)])
        write(tmp_path / name / "r.csv", rows, "Timestamp (s),x,y,z")
    samples = Recordings().read(str(tmp_path))
    np.testing.assert_array_equal(samples.signals[0], values(40, 0))
    assert [each.name for each in samples.decisions] == ["windows", "time column"]
    rows = np.column_stack([np.arange(40)[::-1], values(40, 1)])
    write(tmp_path / "b" / "r.csv", rows, "time,x,y,z")
    with pytest.raises(DataError, match="4 channels"):
        Recordings().read(str(tmp_path))  # What falls is no time.


def test_parts_are_folders_and_stay(tmp_path):
    for part, lengths in (("train/", [40] * 6), ("test/", [40] * 2)):
        tree(tmp_path, lengths, part=part)
    dataset = open_dataset(tmp_path)
    assert dataset.is_signal
    assert len(dataset.test) == 4
    assert {place.partition("/")[0] for place in dataset.test.ids} == {"test"}


def test_windows_of_one_recording_stay_in_one_part(tmp_path):
    tree(tmp_path, [200] * 8)
    dataset = open_dataset(tmp_path, window=40)
    owners = [{place.partition("[")[0] for place in part.ids} for part in dataset.parts]
    assert all(owners)
    assert len(set.union(*owners)) == sum(map(len, owners)) == 16
    assert all(part.groups is not None for part in dataset.parts)
    for part in dataset.parts:
        files = [place.partition("[")[0] for place in part.ids]
        pairs = {*zip(files, part.recordings.tolist(), strict=True)}
        assert len(pairs) == len(set(files)) == len(set(part.recordings.tolist()))


def test_whole_recordings_are_not_joined(tmp_path):
    tree(tmp_path, [60] * 8)
    dataset = open_dataset(tmp_path)
    assert all(part.recordings is None for part in dataset.parts)


def test_arrays_and_tables_of_the_same_values_are_the_same_data(tmp_path):
    made = tree(tmp_path / "tables", [60, 80, 70, 90])
    for place, each in made.items():
        path = tmp_path / "arrays" / place.replace(".csv", ".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, each)
    one, other = (open_dataset(tmp_path / name, window=32) for name in ("tables", "arrays"))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "2 channels"),
        ("x,z,y\n1,2,3\n", "columns x, z, y"),
        ("x,y,z\n1,2,3\n1,2\n", "row 2"),
        ("x,y,z\n1,2,three\n", "row 1"),
        ("x,y,z\n", "no numbers"),
        ("x,y,z\n1,2,nan\n" * 1 + "1,2,3\n" * 59, "NaN"),
    ],
)
def test_a_recording_that_does_not_fit_is_named(tmp_path, text, message):
    tree(tmp_path, [60, 60])
    (tmp_path / "walk" / "01.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Recordings(window=60).read(str(tmp_path))
    assert "01.csv" in caught.value.what


def test_too_many_channels_are_refused(tmp_path):
    for name in "ab":
        path = tmp_path / name / "r.npy"
        path.parent.mkdir()
        np.save(path, np.zeros((60, 17)))
    with pytest.raises(DataError, match="17 channels, at most 16"):
        Recordings().read(str(tmp_path))


def test_folders_of_pictures_and_of_recordings_are_told_apart(tmp_path):
    tree(tmp_path / "signals", [40], part="train/")
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "notes.csv").write_text("a,b\n")
    (tmp_path / "pictures" / "cat" / "1.png").write_bytes(b"")
    assert find_source(str(tmp_path / "signals"))[0] == "recordings"
    assert find_source(str(tmp_path / "pictures"))[0] == "image_folder"


@pytest.mark.parametrize("options", [{"window": 0}, {"stride": 0}, {"window": 1 << 21}])
def test_lengths_out_of_range_are_refused(options):
    from lepton_automl.config import RunConfig

    with pytest.raises(ConfigError, match="the rule is 1 to"):
        RunConfig(data="x", out="y", **options)


def test_a_window_has_no_effect_on_other_data():
    with pytest.raises(ConfigError, match="neither a folder nor a table of recordings"):
        open_dataset("digits", window=4)


def test_recordings_that_cannot_be_read_are_left_out_on_request(tmp_path):
    tree(tmp_path, [60] * 3)
    (tmp_path / "run" / "01.csv").write_text("x,y,z\n1,2\n")
    with pytest.raises(DataError, match=r"run/01.csv") as caught:
        open_dataset(tmp_path)
    assert "--skip-corrupt" in caught.value.fix
    samples = Recordings(skip_corrupt=True).read(str(tmp_path))
    assert [place.partition("/")[0] for place in samples.ids] == ["run"] * 2 + ["walk"] * 3
    assert "ignored 1 of 6 recordings that cannot be read" in samples.notes[0]


def test_a_test_folder_without_labels_is_left_out_with_a_note(tmp_path):
    tree(tmp_path, [60] * 6, part="train/")
    for n in range(3):
        write(tmp_path / "test" / f"{n}.csv", values(60, n))
    samples = Recordings().read(str(tmp_path))
    assert len(samples) == 12
    assert "3 recordings in" in samples.notes[0]
    assert all(map(len, open_dataset(tmp_path).parts))
