from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.layouts import class_folders
from lepton_automl.data.sources.image_folder import ImageFolder
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import write_folder


def example(folder):
    return str(write_folder(folder / "photos", {"a": 4, "b": 4}))


def read(folder):
    return ImageFolder().read(str(folder))


def test_classes_are_sub_folders_in_the_order_of_their_names(tmp_path):
    samples = read(write_folder(tmp_path, {"b": 2, "a": 1, "10": 1}))
    assert samples.class_names == ("10", "a", "b")
    assert samples.ids == ("10/000.png", "a/000.png", "b/000.png", "b/001.png")
    assert samples.labels.tolist() == [0, 1, 2, 2]
    assert set(samples.parts) == {""}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "valid", "testing"),
        ("tr", "dev", "holdout"),
        ("01_Training_Set", "Validation-Images", "Hold-Out"),
        ("trainset", "valdata", "final_TEST"),
        ("train", "dev", "eval"),
    ],
)
def test_a_level_of_parts_is_seen(tmp_path, names):
    samples = read(write_folder(tmp_path, {f"{n}/{c}": 1 for n in names for c in "ab"}))
    assert samples.class_names == ("a", "b")
    found = dict(zip(samples.ids, samples.parts.tolist(), strict=True))
    for name, part in zip(names, ("train", "validation", "test"), strict=True):
        assert found[f"{name}/a/000.png"] == part


def test_files_beside_the_parts_do_no_harm(tmp_path):
    write_folder(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1})
    (tmp_path / "index.csv").write_text("x")
    assert read(tmp_path).class_names == ("a", "b")


def test_a_class_called_train_is_a_class(tmp_path):
    assert read(write_folder(tmp_path, {"bus": 1, "train": 1})).class_names == ("bus", "train")


def test_pictures_right_below_train_and_test_are_refused_unless_these_are_called_classes(tmp_path):
    write_folder(tmp_path, {"test": 1, "train": 2})
    with pytest.raises(DataError, match="hold no class folders") as caught:
        read(tmp_path)
    assert "--parts none" in caught.value.fix
    samples = ImageFolder({}).read(str(tmp_path))
    assert samples.class_names == ("test", "train")
    assert samples.labels.tolist() == [0, 1, 1]


def test_folders_that_are_neither_part_nor_class_are_refused(tmp_path):
    write_folder(tmp_path, {"train/a": 1, "test/a": 1, "extra/a": 1})
    with pytest.raises(DataError, match="extra"):
        read(tmp_path)


def test_a_class_that_only_one_part_has_is_a_class(tmp_path):
    write_folder(tmp_path, {"train/a": 1, "test/b": 1})
    samples = read(tmp_path)
    assert samples.class_names == ("a", "b")
    assert samples.labels.tolist() == [0, 1] or samples.labels.tolist() == [1, 0]


def test_a_test_folder_with_one_folder_that_is_no_class_has_no_labels(tmp_path):
    write_folder(tmp_path / "train", {"a": 3, "b": 3})
    write_folder(tmp_path / "test", {"unknown": 2})
    samples = read(tmp_path)
    assert samples.class_names == ("a", "b")
    assert set(samples.parts) == {"train"}
    (note,) = samples.notes
    assert "2 pictures have no labels" in note
    assert "lepton predict" in note
    write_folder(tmp_path / "test", {"a": 1})  # Now both are classes.
    assert read(tmp_path).class_names == ("a", "b", "unknown")


def test_deeper_folders_belong_to_their_class(tmp_path):
    samples = read(write_folder(tmp_path, {"a/monday": 1, "a/sunday/x": 1, "b": 1}))
    assert samples.class_names == ("a", "b")
    assert samples.labels.tolist() == [0, 0, 1]


def test_endings_in_capitals_are_pictures_and_hidden_files_are_not(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 1, ".cache": 1})
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "000.PNG")
    (tmp_path / "a" / "._000.png").write_bytes(b"resource fork")
    assert read(tmp_path).ids == ("a/000.PNG", "b/000.png")


def test_other_files_are_ignored_with_a_note(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "notes.txt").write_text("x")
    Image.new("L", (2, 2)).save(tmp_path / "loose.png")
    (note,) = read(tmp_path).notes
    assert "ignored 2 files" in note
    assert "notes.txt" in note
    assert "loose.png" in note


def test_pictures_of_kinds_that_are_not_read_are_named_unless_they_are_there_in_another_kind(
    tmp_path,
):
    folder = write_folder(tmp_path, {"a": 4, "b": 4})
    for name in ("a/000.heic", "b/001.DNG"):  # Beside 000.png and 001.png.
        (folder / name).write_bytes(b"x")
    assert len(read(folder)) == 8
    for name in ("a/phone.HEIC", "b/x.avif", "b/y.heic"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 \.heic, 1 \.avif.*a/phone\.HEIC") as raised:
        read(folder)
    assert "convert" in raised.value.fix
    only = tmp_path / "only"
    for name in ("a", "b"):
        (only / name).mkdir(parents=True)
        (only / name / "1.svg").write_bytes(b"<svg/>")
    with pytest.raises(DataError, match=r"2 \.svg"):
        read(only)


def test_an_empty_folder_is_an_error_with_the_layout(tmp_path):
    with pytest.raises(DataError, match="holds no pictures") as caught:
        read(tmp_path)
    assert "one sub-folder" in caught.value.fix
    assert ".jpg" in caught.value.fix


def test_pictures_without_class_folders_are_an_error_with_the_layout(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 pictures are in"):
        read(tmp_path)


def test_folders_without_pictures_say_what_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"1 file \(1 \.txt\), none of them a picture"):
        read(tmp_path)
    for name in ("X_TRAIN.arff", "X_TEST.arff", "notes"):
        (tmp_path / name).write_text("x")
    wanted = r"4 files \(2 \.arff, 1 without suffix, 1 \.txt\), none of them a picture"
    with pytest.raises(DataError, match=wanted) as caught:
        read(tmp_path)
    assert ".ts files" in caught.value.fix


def test_a_data_set_that_hugging_face_saved_has_a_way_out(tmp_path):
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of them a picture") as caught:
        ImageFolder().read(str(tmp_path))
    assert "datasets.load_from_disk(FOLDER)" in caught.value.fix


def test_an_empty_class_folder_is_a_class_without_pictures(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "c").mkdir()
    assert read(tmp_path).class_names == ("a", "b", "c")


def parts_of(samples):
    """Part -> number of samples."""
    names, counts = np.unique(samples.parts, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("name", ["dev", "eval", "Validation_2017"])
def test_two_parts_are_no_two_classes_whatever_the_second_is_called(tmp_path, name):
    samples = read(write_folder(tmp_path, {f"{p}/{c}": 2 for p in ("train", name) for c in "ab"}))
    (decision,) = samples.decisions
    assert decision.option == "--parts"
    assert f"validation is {name}/" in decision.choice
    assert samples.class_names == ("a", "b")
    assert parts_of(samples) == {"train": 4, "validation": 4}


@pytest.mark.parametrize(
    "counts",
    [
        {f"{top}/{inner}": 1 for top in ("one", "two") for inner in ("a", "b")},
        {f"{top}/{inner}": 1 for top in ("ant", "bee") for inner in ("train", "test")},
        {f"{top}/{inner}": 1 for top in ("1", "2", "3") for inner in ("a", "b", "c" * int(top))},
    ],
)
def test_folders_that_all_hold_the_same_folders_are_refused_with_the_layout(tmp_path, counts):
    write_folder(tmp_path, counts)
    with pytest.raises(DataError, match="all hold the same sub-folders") as caught:
        read(tmp_path)
    assert caught.value.exit_code == 3
    assert "DATA/train/CLASS" in caught.value.fix
    tops = {name.partition("/")[0] for name in counts}
    assert set(ImageFolder({}).read(str(tmp_path)).class_names) == tops


def test_stated_folders_are_the_parts(tmp_path):
    write_folder(tmp_path, {f"{top}/{c}": 1 for top in ("one", "two", "three") for c in "ab"})
    samples = ImageFolder({"train": "two", "test": "one"}).read(str(tmp_path))
    assert samples.class_names == ("a", "b")
    assert parts_of(samples) == {"train": 2, "test": 2}
    assert any("three" in note for note in samples.notes)
    with pytest.raises(ConfigError, match="'four'"):
        ImageFolder({"train": "four"}).read(str(tmp_path))


@pytest.mark.parametrize(
    "counts",
    [
        {f"dataset/images/{p}/{c}": 1 for p in ("train", "val") for c in "ab"},
        {f"{p}/images/{c}": 1 for p in ("train", "val") for c in "ab"},
        {f"set/{p}/{c}/images": 1 for p in ("train", "val") for c in "ab"},
    ],
)
def test_folders_around_and_between_parts_and_classes_are_passed(tmp_path, counts):
    write_folder(tmp_path, counts)
    (tmp_path / next(iter(counts)).split("/")[0] / "labels").mkdir()
    samples = read(tmp_path)
    assert samples.class_names == ("a", "b")
    assert parts_of(samples) == {"train": 2, "validation": 2}


LEFT_BEHIND = (
    *("__MACOSX", "@eaDir", "#recycle", ".ipynb_checkpoints", ".git", "lost+found"),
    *("$RECYCLE.BIN", "System Volume Information", ".Trash-1000"),
)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_is_no_class_and_no_picture_at_any_depth(tmp_path, name):
    write_folder(tmp_path, {"a": 1, "b/x": 1, name: 1, f"a/{name}/c": 1, f"b/x/{name}": 1})
    (tmp_path / "a" / "Thumbs.db").write_text("x")
    samples = read(tmp_path)
    assert samples.ids == ("a/000.png", "b/x/000.png")
    assert samples.notes == ()


def test_links_to_folders_and_files_are_followed_and_loops_end(tmp_path):
    write_folder(tmp_path / "disk", {"more": 2})
    write_folder(tmp_path / "data", {"a": 1, "b": 1})
    (tmp_path / "data" / "a" / "disk").symlink_to(tmp_path / "disk" / "more")
    (tmp_path / "data" / "b" / "one.png").symlink_to(tmp_path / "disk" / "more" / "000.png")
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b" / "top").symlink_to(tmp_path)
    (tmp_path / "data" / "b" / "gone").symlink_to(tmp_path / "nowhere")
    samples = read(tmp_path / "data")
    assert samples.ids == (
        "a/000.png",
        "a/disk/000.png",
        "a/disk/001.png",
        "b/000.png",
        "b/one.png",
    )
    assert any("ignored 2 links from inside a folder to it" in note for note in samples.notes)
    assert any("ignored 1 link to what is not there" in note for note in samples.notes)


def test_a_file_that_a_class_has_twice_through_links_is_read_once(tmp_path):
    write_folder(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / "001.png")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "b")
    samples = read(tmp_path)
    assert samples.ids == ("a/000.png", "a/001.png", "a/self/000.png", "b/000.png")
    assert any("1 pictures that are links to others" in note for note in samples.notes)


def test_a_part_that_is_there_and_empty_is_refused(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "train/b": 2})
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"the test part of .* is empty"):
        read(tmp_path)


def test_a_part_without_class_folders_is_said_to_have_no_labels(tmp_path):
    samples = read(write_folder(tmp_path, {"train/a": 2, "train/b": 2, "test": 3}))
    assert parts_of(samples) == {"train": 4}
    assert any("3 pictures have no labels" in note for note in samples.notes)


def test_a_name_that_the_locale_cannot_read_hints_at_it():
    """As Python reads the name `größe` in the locale C without its UTF-8 mode."""
    with pytest.raises(DataError, match="'größe' cannot be read in this locale") as caught:
        class_folders._text("größe".encode().decode("ascii", "surrogateescape"))
    assert "UTF-8" in caught.value.fix
    with pytest.raises(DataError, match="is not valid UTF-8"):
        class_folders._text("\udcff")


def test_data_of_another_kind_one_level_below_are_named(tmp_path):
    """As a package of MNIST has them, in `data/` beside its code."""
    (tmp_path / "data").mkdir()
    for kind, text in (("images-idx3", b"x"), ("labels-idx1", b"y")):
        (tmp_path / "data" / f"train-{kind}-ubyte").write_bytes(text)
    (tmp_path / "index.js").write_text("")
    with pytest.raises(DataError, match=r"data is data of another kind \(idx\)") as caught:
        read(tmp_path)
    assert caught.value.fix == f"give {tmp_path / 'data'}"
