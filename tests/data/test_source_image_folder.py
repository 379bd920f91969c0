from __future__ import annotations

import pytest
from PIL import Image

from lepton_automl.data.sources.image_folder import ImageFolder
from lepton_automl.errors import DataError
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


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing")])
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


def test_pictures_right_below_train_and_test_make_these_two_the_classes(tmp_path):
    samples = read(write_folder(tmp_path, {"test": 1, "train": 2}))
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
    with pytest.raises(DataError, match="1 files, none of them a picture"):
        read(tmp_path)


def test_an_empty_class_folder_is_a_class_without_pictures(tmp_path):
    write_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "c").mkdir()
    assert read(tmp_path).class_names == ("a", "b", "c")
