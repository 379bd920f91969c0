from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.loading import dataset_name
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.splits import groups as splits_groups
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import random_pictures, tree, write_folder, write_npz


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("digits", "digits"),
        ("x/flowers5/train", "flowers5"),
        ("x/flowers5/", "flowers5"),
        ("/tmp/my set.v2.npz", "my-set.v2"),
        ("my.photos", "my.photos"),
        ("/", "data"),
        ("../..hidden", "hidden"),
    ],
)
def test_runs_are_called_after_the_data(data, name):
    assert dataset_name(data) == name


def test_equal_pictures_stay_together_when_we_divide(tmp_path):
    x = np.repeat(random_pictures(30, (4, 4, 1)), 2, 0)
    dataset = open_dataset(write_npz(tmp_path / "a.npz", x=x, y=np.arange(60) // 2 % 2))
    parts = [set(part.digests) for part in dataset.parts]
    assert sum(map(len, parts)) == 30
    assert all(part.groups is None for part in dataset.parts)


def test_a_test_folder_becomes_the_test_part_by_class_names(tmp_path):
    write_folder(tmp_path / "train", {"cat": 9, "dog": 9, "eel": 9}, seed=0)
    write_folder(tmp_path / "test", {"dog": 2, "eel": 3}, seed=9)
    dataset = open_dataset(tmp_path / "train", test=tmp_path / "test")
    assert dataset.test.labels.tolist() == [1, 1, 2, 2, 2]
    assert len(dataset.train) + len(dataset.validation) == 27
    np.testing.assert_array_equal(
        dataset.pixels("test", (9, 7))[:2], random_pictures(2, (9, 7, 3), seed=9)
    )


def test_a_class_that_only_the_test_part_has_is_named_with_what_it_has_there(tmp_path):
    counts = {"train/a": 9, "train/b": 9, "test/a": 3, "test/b": 3, "test/c": 4}
    with pytest.raises(DataError, match=r"1 of 3 classes: 'c' has 0 beside 4 in given parts"):
        open_dataset(write_folder(tmp_path / "d", counts))


def test_a_compressed_file_is_to_be_unpacked(tmp_path):
    (tmp_path / "table.csv.GZ").write_bytes(b"x")
    with pytest.raises(DataError, match="it is compressed") as caught:
        open_dataset(str(tmp_path / "table.csv.GZ"))
    assert "gunzip" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("a.PNG", "it is a single picture", "lepton predict RUN PICTURE"),
        ("a.dcm", "it is a single picture", "one sub-folder of pictures per class"),
        ("a.wav", "it is a single recording", "one sub-folder of recordings per class"),
        ("coco.json", "it is one JSON document", ".jsonl"),
    ],
)
def test_a_single_file_that_holds_no_data_set_is_named_for_what_it_is(tmp_path, name, what, fix):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=what) as caught:
        open_dataset(str(tmp_path / name))
    assert fix in caught.value.fix
    with pytest.raises(DataError, match="does not exist") as caught:
        open_dataset(str(tmp_path / f"x{name}"))
    assert caught.value.fix.startswith("check the path")


def test_of_test_data_with_a_test_part_only_that_is_taken(tmp_path):
    x, y = random_pictures(20, (4, 4, 1)), np.arange(20) % 2
    data = write_npz(tmp_path / "a.npz", x=x, y=y)
    write_npz(tmp_path / "b.npz", x_train=x, y_train=y, x_test=x[:3] // 2, y_test=y[:3])
    assert open_dataset(data, test=tmp_path / "b.npz").test.labels.tolist() == [0, 1, 0]


def test_numbers_of_a_test_file_are_places_when_only_the_data_have_names(tmp_path):
    x, y = random_pictures(20, (4, 4, 1)), np.arange(20) % 2
    data = write_npz(tmp_path / "a.npz", x=x, y=y, class_names=np.array(["no", "yes"]))
    write_npz(tmp_path / "b.npz", x=x[:3] // 2, y=np.array([1, 1, 0]))
    assert open_dataset(data, test=tmp_path / "b.npz").test.labels.tolist() == [1, 1, 0]


def test_a_test_class_the_data_have_not_is_refused_with_the_nearest(tmp_path):
    write_folder(tmp_path / "a", {"cat": 9, "dog": 9})
    write_folder(tmp_path / "b", {"cats": 2})
    with pytest.raises(DataError, match="'cats'") as caught:
        open_dataset(tmp_path / "a", test=tmp_path / "b")
    assert "did you mean 'cat'" in caught.value.fix


def test_a_second_test_part_is_refused(tmp_path):
    write_folder(tmp_path, {"0": 2, "1": 2})
    with pytest.raises(ConfigError, match="360 pictures"):
        open_dataset("digits", test=tmp_path)


def test_corrupt_files_are_all_named_and_refused(tmp_path):
    write_folder(tmp_path, {"a": 9, "b": 9})
    (tmp_path / "a" / "003.png").write_bytes(b"no picture")
    (tmp_path / "b" / "004.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 18 pictures") as caught:
        open_dataset(tmp_path)
    assert "003.png" in caught.value.what
    assert "004.png" in caught.value.what
    assert "--skip-corrupt" in caught.value.fix
    assert "\n" not in caught.value.what


def test_skip_corrupt_lists_them_and_leaves_the_folder_alone(tmp_path):
    data = write_folder(tmp_path / "data", {"a": 9, "b": 9})
    (data / "a" / "003.png").write_bytes(b"no picture")
    whole = (data / "b" / "004.png").read_bytes()
    (data / "b" / "004.png").write_bytes(whole[:60])
    before, events = tree(data), []
    dataset = open_dataset(
        data, skip_corrupt=True, quarantine=tmp_path / "out" / "corrupt.txt", emit=events.append
    )
    assert sum(len(part) for part in dataset.parts) == 16
    lines = (tmp_path / "out" / "corrupt.txt").read_text().splitlines()
    assert [("003.png" in lines[0]), ("004.png" in lines[1])] == [True, True]
    assert any("ignored 2 of 18" in event.message for event in events)
    assert tree(data) == before


def test_skipping_every_picture_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="2 of 2 pictures"):
        open_dataset(tmp_path, skip_corrupt=True)


@pytest.mark.parametrize("data", ["digit", "no/such/folder", "notes.txt"])
def test_data_that_no_source_accepts_list_what_is_read(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError) as caught:
        open_dataset(data)
    assert "one sub-folder of pictures per class" in caught.value.fix
    assert caught.value.exit_code == 3
    if data == "digit":
        assert "did you mean 'digits'" in caught.value.fix


def test_events_say_what_was_read(tmp_path):
    events = []
    open_dataset(write_folder(tmp_path, {"a": 20, "b": 20}), emit=events.append)
    assert events[-1].message.endswith("28 train, 6 validation, 6 test")
    assert {event.stage for event in events} == {"data"}


def test_copies_that_leave_a_class_fewer_pictures_than_parts_are_refused_by_name(tmp_path):
    x = random_pictures(12, (4, 4, 1))
    x, y = np.concatenate([x, np.repeat(x[:2], 9, 0)]), np.array([0, 0] + [1] * 10 + [0] * 18)
    with pytest.raises(DataError, match="'0' has 2 among 20") as caught:
        open_dataset(write_npz(tmp_path / "a.npz", x=x, y=y))
    assert "x[12] of x[0]" in caught.value.what
    assert caught.value.exit_code == 3


def test_three_different_pictures_a_class_are_three_parts_whatever_was_copied(tmp_path):
    x = random_pictures(6, (4, 4, 1))
    index = np.concatenate([np.arange(6), np.repeat([0, 3], [20, 9])])
    dataset = open_dataset(
        write_npz(tmp_path / "a.npz", x=x[index], y=(index >= 3).astype(int)), seed=3
    )
    assert [len(set(part.digests)) for part in dataset.parts] == [2, 2, 2]
    assert all(set(part.labels.tolist()) == {0, 1} for part in dataset.parts)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_given_part_that_is_empty_is_refused(tmp_path, part):
    x, y = random_pictures(20, (4, 4, 1)), np.arange(20) % 2
    arrays = {"x_train": x, "y_train": y, f"x_{part}": x[:0], f"y_{part}": y[:0]}
    with pytest.raises(DataError, match=f"x_{part} has length 0"):
        open_dataset(write_npz(tmp_path / "a.npz", **arrays))


def named(tmp_path):
    """Twelve patients with four pictures each; the class is another for every picture."""
    names = [f"{'ab'[n % 2]}/P{n // 4:02}-{n}.png" for n in range(48)]
    write_folder(tmp_path, {"a": 24, "b": 24})
    for n, name in enumerate(names):
        (tmp_path / "ab"[n % 2] / f"{n // 2:03}.png").rename(tmp_path / name)
    return tmp_path


def test_a_group_is_what_the_pattern_matches_in_the_path(tmp_path):
    dataset = open_dataset(named(tmp_path), group=r"/(P\d+)-")
    patients = [{name[2:5] for name in part.ids} for part in dataset.parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 12
    assert dataset.train.groups is not None
    loose = open_dataset(tmp_path, group="none")
    assert len(set.intersection(*({i[2:5] for i in part.ids} for part in loose.parts))) > 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(P", "not a regular expression"), ("Q", "matches none"), ("png", "one group")],
)
def test_a_pattern_that_makes_no_groups_is_refused(tmp_path, pattern, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_dataset(named(tmp_path), group=pattern)
    assert caught.value.exit_code == 4


def test_group_none_leaves_given_groups_out(tmp_path):
    x, y = random_pictures(60, (4, 4, 1)), np.arange(60) % 2
    data = write_npz(tmp_path / "a.npz", x=x, y=y, group=np.arange(60) // 30)
    with pytest.raises(DataError, match="2 groups"):
        open_dataset(data)
    assert all(part.groups is None for part in open_dataset(data, group="none").parts)


def test_stated_folders_are_parts_and_only_of_a_folder(tmp_path):
    write_folder(tmp_path, {f"{top}/{c}": 9 for top in ("x", "y") for c in "ab"})
    dataset = open_dataset(tmp_path, part_names="train=x,test=y")
    assert len(dataset.test) == 18
    assert len(open_dataset(tmp_path, part_names="none").class_names) == 2
    with pytest.raises(ConfigError, match="--parts has no effect"):
        open_dataset("digits", part_names="none")
    with pytest.raises(ConfigError, match="the rule is PART=FOLDER"):
        open_dataset(tmp_path, part_names="train:x")


def decision(dataset, name):
    found = [each for each in dataset.decisions if each.name == name]
    return found[0] if found else None


def test_parts_that_were_drawn_are_listed_with_their_seed(tmp_path):
    x, y = random_pictures(60, (4, 4, 1)), np.arange(60) % 2
    whole = open_dataset(write_npz(tmp_path / "a.npz", x=x, y=y), seed=7)
    made = decision(whole, "split")
    counts = [f"{len(part)} {part.name}" for part in whole.parts]
    assert made.choice == f"validation and test drawn at random: {', '.join(counts)}"
    assert "seed 7" in made.evidence
    tested = {"x_train": x[:50], "y_train": y[:50], "x_test": x[50:], "y_test": y[50:]}
    half = decision(open_dataset(write_npz(tmp_path / "b.npz", **tested)), "split")
    assert half.choice.startswith("validation drawn at random")
    given = tested | {"x_val": x[40:50], "y_val": y[40:50]}
    given |= {"x_train": x[:40], "y_train": y[:40]}
    assert decision(open_dataset(write_npz(tmp_path / "c.npz", **given)), "split") is None


def test_classes_whose_groups_were_left_out_are_named(tmp_path, monkeypatch):
    """Groups are found by names: twelve of class 0 and two of class 1, fewer than parts."""
    x, y = random_pictures(80, (4, 4, 1)), (np.arange(80) >= 60).astype(int)
    groups = np.concatenate([np.arange(60) // 5, 12 + np.arange(20) // 10])
    monkeypatch.setattr(splits_groups, "find_name_groups", lambda *given: (groups, None))
    made = decision(
        open_dataset(write_npz(tmp_path / "a.npz", x=x, y=y)), "groups of small classes"
    )
    assert made.certainty == "assumed"
    assert "in 1 of 2 classes" in made.choice
    assert "'1' (2)" in made.evidence
    groups[70:74] = 20
    enough = open_dataset(write_npz(tmp_path / "a.npz", x=x, y=y))
    assert decision(enough, "groups of small classes") is None


def test_what_is_used_of_transparent_and_animated_pictures_is_listed(tmp_path):
    write_folder(tmp_path / "data", {"cat": 9, "dog": 9})
    plain = open_dataset(tmp_path / "data")
    assert not decision(plain, "transparency")
    assert not decision(plain, "animations")
    pixels = random_pictures(2, (9, 7, 4))
    Image.fromarray(pixels[0]).save(tmp_path / "data" / "cat" / "clear.png")
    frames = [Image.fromarray(each[..., 0]) for each in pixels]
    frames[0].save(
        tmp_path / "data" / "dog" / "moving.gif", save_all=True, append_images=frames[1:]
    )
    dataset = open_dataset(tmp_path / "data")
    assert "1 of 20 pictures, such as cat/clear.png" in decision(dataset, "transparency").evidence
    assert "1 of 20 pictures, such as dog/moving.gif" in decision(dataset, "animations").evidence
