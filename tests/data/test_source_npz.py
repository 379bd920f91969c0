from __future__ import annotations

import shlex
import tracemalloc

import numpy as np
import pytest

from lepton_automl.data.layouts import named_arrays
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.npz import Npz
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import random_pictures, write_npz

X = random_pictures(6, (5, 4, 3))
Y = np.array([0, 1, 2, 0, 1, 2])


def example(folder):
    return write_npz(folder / "arrays.npz", x=X, y=Y)


@pytest.fixture
def read(tmp_path):
    return lambda **arrays: Npz().read(write_npz(tmp_path / "data.npz", **arrays))


def test_parts_come_from_the_keys(read):
    samples = read(x_train=X, y_train=Y, x_val=X[:2], y_val=Y[:2], x_test=X[:1], y_test=Y[:1])
    assert samples.parts.tolist() == ["train"] * 6 + ["validation"] * 2 + ["test"]
    assert samples.ids[6:] == ("x_val[0]", "x_val[1]", "x_test[0]")
    np.testing.assert_array_equal(samples.pictures[:6], X)


def test_x_and_y_are_undivided(read):
    assert set(read(x=X, y=Y).parts) == {""}


@pytest.mark.parametrize("names", [("frames", "kind"), ("my frames", "a kind")])
def test_the_way_out_of_unknown_keys_reads_the_file(tmp_path, names):
    path = write_npz(tmp_path / "data.npz", **dict(zip(names, (X, Y), strict=True)))
    with pytest.raises(DataError) as raised:
        Npz().read(path)
    _, stated = shlex.split(raised.value.fix)[-2:]
    columns = dict(each.split("=") for each in stated.split(","))
    samples = Npz(columns=columns).read(path)
    np.testing.assert_array_equal(samples.pictures, X)
    assert samples.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (X[..., 0], X[..., :1]),
        (X[..., :1], X[..., :1]),
        (X, X),
        (X.transpose(0, 3, 1, 2), X),
        (X[..., :1].transpose(0, 3, 1, 2), X[..., :1]),
        (X[:, :3, :, 0], X[:, :3, :, :1]),
    ],
    ids=["grey", "grey last", "rgb last", "rgb first", "grey first", "three rows"],
)
def test_unambiguous_layouts_are_read(read, x, expected):
    np.testing.assert_array_equal(read(x=x, y=Y).pictures, expected)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((18, 20, 4), (18, 20, 4)),
        ((6, 18, 20), (18, 20, 6)),
        ((9, 9, 5), (9, 9, 5)),
        ((12, 9, 9), (9, 9, 12)),
        ((20, 18, 2), (20, 18, 2)),
        ((16, 30, 30), (30, 30, 16)),
    ],
)
def test_up_to_16_channels_are_read_where_they_are_told_apart(read, shape, size):
    x = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    found = read(x=x, y=Y).pictures
    assert found.shape[1:] == size
    np.testing.assert_array_equal(found, x if shape == size else x.transpose(0, 2, 3, 1))


def test_an_axis_of_more_channels_is_refused(tmp_path):
    path = write_npz(tmp_path / "x.npz", x=np.zeros((6, 17, 20, 4), np.uint8), y=Y[:6])
    with pytest.raises(ConfigError, match="that axis is not 1 to 16 long"):
        Npz(channel_axis="first").read(path)


@pytest.mark.parametrize(
    "shape", [(3, 5, 3), (1, 4, 1), (5, 4, 6), (4, 4, 4), (18, 19, 17), (20,), (2, 2, 2, 3)]
)
def test_ambiguous_layouts_are_refused(read, shape):
    with pytest.raises(DataError, match=r"shape \(6, "):
        read(x=np.zeros((6, *shape), np.uint8), y=Y)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (X.astype(np.int64), X),
        (X / 255, X),
        ((X / 255).astype(np.float32), X),
        (X.astype(np.float64), X),
        (X.astype(np.uint16), X),
        (X.astype(np.uint16) * 257, X),
        (X > 127, (X > 127) * 255),
        (X.astype(">f4"), X),
    ],
    ids=["int64", "0-1", "0-1 single", "0-255", "uint16 low", "uint16", "bool", "big endian"],
)
def test_kinds_of_pixels_become_0_to_255(read, x, expected):
    pictures = read(x=x, y=Y).pictures
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, expected)


def test_the_range_of_all_parts_together_decides(read):
    dark = np.full((1, 5, 4, 3), 1.0)
    samples = read(x_train=X.astype(float), y_train=Y, x_test=dark, y_test=Y[:1])
    assert samples.pictures[-1].max() == 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X / 255 - 0.5, "pixels from -0.5 to 0.5"),
        (X * 300.0, "pixels from 0 to"),
        (X.astype(int) * 1000, "at most 65535"),
        (X.astype("U3"), "not numbers"),
        (X.astype(complex), "not numbers"),
    ],
)
def test_other_pixels_are_refused_with_what_was_found(read, x, message):
    with pytest.raises(DataError, match=message):
        read(x=x, y=Y)


def test_parts_of_different_kinds_are_refused(read):
    with pytest.raises(DataError, match=r"x_train .* but x_test 0 to 1"):
        read(x_train=X, y_train=Y, x_test=X / 255, y_test=Y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused_by_place(read, value):
    x = X / 255
    x[4, 1, 1, 0] = value
    with pytest.raises(DataError, match=r"1 of 6 pictures, the first is x\[4\]"):
        read(x=x, y=Y)


@pytest.mark.parametrize("key", ["x", "y"])
def test_object_arrays_are_refused_with_the_way_out(read, key):
    arrays = {"x": X, "y": Y}
    arrays[key] = np.array([*arrays[key], None], dtype=object)[:6]
    with pytest.raises(DataError, match=f"{key} is an array of Python objects") as caught:
        read(**arrays)
    assert "np.stack" in caught.value.fix


@pytest.mark.parametrize(
    ("y", "names", "labels"),
    [
        (Y, ("0", "1", "2"), Y),
        (Y * 10 + 5, ("5", "15", "25"), Y),
        (Y.astype(np.float32), ("0", "1", "2"), Y),
        (Y[:, None], ("0", "1", "2"), Y),
        (np.eye(3)[Y], ("0", "1", "2"), Y),
        (np.array(["cat", "dog", "ant"])[Y], ("ant", "cat", "dog"), [1, 2, 0, 1, 2, 0]),
        (np.array([b"b", b"c", b"a"])[Y], ("a", "b", "c"), [1, 2, 0, 1, 2, 0]),
        (Y == 1, ("0", "1"), Y == 1),
    ],
    ids=["whole", "gaps", "float", "column", "one hot", "texts", "bytes", "bool"],
)
def test_labels_of_every_sensible_kind_are_read(read, y, names, labels):
    samples = read(x=X, y=y)
    assert samples.class_names == names
    np.testing.assert_array_equal(samples.labels, labels)


def test_class_names_give_the_order(read):
    names = np.array(["dog", "cat", "ant"])
    assert read(x=X, y=Y, class_names=names).labels.tolist() == Y.tolist()
    assert read(x=X, y=names[Y], class_names=names).labels.tolist() == Y.tolist()
    assert read(x=X, y=Y, class_names=names).class_names == ("dog", "cat", "ant")


@pytest.mark.parametrize(
    ("y", "names", "message"),
    [
        (Y + 1, ["a", "b", "c"], r"label y\[2\] = 3, the rule is 0 to 2"),
        (Y - 1, None, r"label y\[0\] = -1, the rule is whole numbers from 0"),
        (Y - 1, ["a", "b", "c"], r"label y\[0\] = -1"),
        (np.array(["a", "b", "x"])[Y], ["a", "b"], r"label y\[2\] = x"),
        (Y + 0.5, None, r"y\[0\] = \S+5, the rule is whole numbers or texts; \d+ of \d+"),
        (np.where(Y, np.nan, 1), None, r"y\[\d+\] = nan, the rule is whole numbers"),
        (np.zeros((6, 3)), None, r"shape \(6, 3\)"),
        (Y[:5], None, "6 samples but y 5 labels"),
        (Y, ["a", "a", "b"], "two classes of one name"),
        (Y, ["a", "", "b"], "class name"),
        (Y, [["a", "b", "c"]], "class_names"),
    ],
)
def test_labels_out_of_range_are_refused_by_place(read, y, names, message):
    given = {} if names is None else {"class_names": np.array(names)}
    with pytest.raises(DataError, match=message):
        read(x=X, y=y, **given)


def test_groups_of_one_name_are_one_group_in_all_parts(read):
    samples = read(
        x_train=X,
        y_train=Y,
        x_test=X[:2],
        y_test=Y[:2],
        group_train=np.array(["p", "q", "p", "r", "q", "p"]),
        group_test=np.array(["r", "s"]),
    )
    groups = samples.groups.tolist()
    assert groups[0] == groups[2] == groups[5]
    assert groups[3] == groups[6]
    assert len(set(groups)) == 4


def test_samples_of_a_part_without_groups_are_their_own_groups(read):
    samples = read(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2], group_train=Y)
    assert len(set(samples.groups.tolist())) == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X}, "x_train without y_train"),
        ({"y": Y, "x": X, "x_train": X, "y_train": Y}, "there is x, x_train"),
        ({"X_train": X, "x_train": X, "y_train": Y}, "X_train and x_train mean the same"),
        ({"images": X, "pixels": X, "labels": Y}, "images and pixels mean the same"),
        ({"arr_0": X}, r"there is none; it holds arr_0 uint8 \(6, 5, 4, 3\)"),
        ({"arr_0": X, "arr_1": Y, "arr_2": X, "arr_3": Y}, "there is none"),
        ({"faces": X, "who": Y}, r"faces uint8 \(6, 5, 4, 3\), who int64 \(6,\)"),
        ({"x_train": X, "y_train": Y, "x_tset": X, "y_tset": Y}, "'x_tset' is an unknown key"),
        ({"x": X, "y": Y, "group": Y[:3]}, "group is int64"),
        ({"x": X, "y": Y, "group_test": Y}, "group_test without x_test"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y}, "differ in shape"),
    ],
)
def test_keys_that_do_not_fit_are_named(read, arrays, message):
    with pytest.raises(DataError, match=message):
        read(**arrays)


def test_names_of_classes_without_samples_are_left_out_with_a_note(read):
    samples = read(x=X, y=np.where(Y, 2, 0), class_names=np.array(["a", "b", "c"]))
    assert samples.class_names == ("a", "c")
    assert samples.labels.tolist() == (Y != 0).astype(int).tolist()
    assert any("1 of 3 classes" in note and note.endswith("out: b") for note in samples.notes)


def test_arrays_of_other_names_can_be_stated_and_the_error_says_how(read):
    with pytest.raises(DataError, match="there is none") as caught:
        read(faces=X, who=Y)
    assert "--columns x=faces,y=who" in caught.value.fix


def test_keys_of_other_things_are_passed_over(read):
    assert len(read(x=X, y=Y, origin=np.array("camera"), year=np.array(2020))) == 6
    assert len(read(x=X, y=Y, data=X[:2], labels=Y[:1], objects=np.array([{}]))) == 6


@pytest.mark.parametrize(
    ("pictures", "labels", "part"),
    [
        ("X", "y", ""),
        ("images", "labels", ""),
        ("data", "target", ""),
        ("arr_0", "arr_1", ""),
        ("arr_1", "arr_0", ""),
        ("X_train", "y_train", "train"),
        ("train_images", "train_labels", "train"),
        ("xTrain", "yTrain", "train"),
        ("Training-Pictures", "training-targets", "train"),
    ],
)
def test_common_names_of_keys_are_understood(read, pictures, labels, part):
    samples = read(**{pictures: X, labels: Y})
    np.testing.assert_array_equal(samples.pictures, X)
    assert samples.labels.tolist() == Y.tolist()
    assert set(samples.parts) == {part}
    assert samples.ids[0] == f"{pictures}[0]"


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "valid", "testing")])
def test_parts_are_found_under_the_names_of_medical_sets(read, names):
    arrays = {}
    for name, start in zip(names, (0, 2, 4), strict=True):
        arrays |= {f"{name}_images": X[start : start + 2], f"{name}_labels": Y[start : start + 2]}
    samples = read(**arrays, label_names=np.array(["a", "b", "c"]))
    assert samples.parts.tolist() == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    np.testing.assert_array_equal(samples.pictures, X)
    assert samples.labels.tolist() == Y.tolist()
    assert samples.class_names == ("a", "b", "c")


def test_undivided_data_may_have_a_test_part(read):
    samples = read(x=X[:4], y=Y[:4], x_test=X[4:], y_test=Y[4:])
    assert samples.parts.tolist() == [""] * 4 + ["test"] * 2


def test_the_keys_that_are_there_are_listed_but_not_all_of_many(read):
    with pytest.raises(DataError) as caught:
        read(**{f"thing{n}": Y for n in range(50)})
    assert "thing3 int64 (6,)" in caught.value.what
    assert "and 38 more" in caught.value.what


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x04N."])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        Npz().read(str(path))


def test_a_truncated_or_missing_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, x=X, y=Y)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="not a readable"):
            Npz().read(str(path))
    with pytest.raises(DataError, match="No such file") as caught:
        Npz().read(str(tmp_path / "no.npz"))
    assert "path" in caught.value.fix
    assert "savez" not in caught.value.fix  # There is nothing to write again.


def test_a_bare_array_is_refused(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match="one bare array"):
        Npz().read(str(tmp_path / "a.npz"))


def test_no_pictures_at_all_are_refused(read):
    with pytest.raises(DataError, match="no pictures"):
        read(x=X[:0], y=Y[:0])


def test_four_arrays_without_names_are_train_and_test_by_their_lengths(read):
    samples = read(arr_0=X[:4], arr_1=Y[:4], arr_2=X[4:], arr_3=Y[4:])
    assert samples.parts.tolist() == ["train"] * 4 + ["test"] * 2
    again = read(arr_0=X[:4], arr_1=X[4:], arr_2=Y[:4], arr_3=Y[4:])
    np.testing.assert_array_equal(again.labels, Y)
    assert "y_test is arr_3" in again.decisions[0].choice
    with pytest.raises(DataError, match="there is none"):
        read(arr_0=X[:3], arr_1=Y[:3], arr_2=X[3:], arr_3=Y[3:])


def test_ambiguous_channels_are_answered_by_the_option(tmp_path):
    x = random_pictures(6, (3, 5, 3))
    path = write_npz(tmp_path / "a.npz", x=x, y=Y)
    with pytest.raises(DataError, match="first or last") as caught:
        Npz().read(path)
    assert "--channel-axis first (5x3 pixels, 3 channels)" in caught.value.fix
    assert "--channel-axis last (3x5 pixels, 3 channels)" in caught.value.fix
    np.testing.assert_array_equal(Npz(channel_axis="last").read(path).pictures, x)
    first = Npz(channel_axis="first").read(path).pictures
    np.testing.assert_array_equal(first, x.transpose(0, 2, 3, 1))


def test_channels_that_come_first_are_a_decision_that_is_shown(read):
    (decision,) = [d for d in read(x=X.transpose(0, 3, 1, 2), y=Y).decisions if "axis" in d.name]
    assert decision.choice.startswith("first")
    assert "(6, 3, 5, 4)" in decision.evidence
    assert not decision.is_detail


def test_stated_arrays_overrule_names(tmp_path):
    path = write_npz(tmp_path / "a.npz", x=X, y=Y, crops=X // 2, kind=Y + 1, x_extra=Y)
    samples = Npz(columns={"x": "crops", "y": "kind"}).read(path)
    np.testing.assert_array_equal(samples.pictures, X // 2)
    assert samples.class_names == ("1", "2", "3")
    assert [d.name for d in samples.decisions if d.name == "columns"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"x": "croops"}}, "'croops' is not a key"),
        ({"columns": {"pictures": "crops"}}, "'pictures' is not a kind of array"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    path = write_npz(tmp_path / "a.npz", x=X, y=Y, crops=X)
    with pytest.raises(ConfigError, match=message):
        Npz(**options).read(path)


def test_an_axis_of_pictures_without_channels_has_no_effect(tmp_path):
    with pytest.raises(ConfigError, match="no effect"):
        Npz(channel_axis="last").read(write_npz(tmp_path / "a.npz", x=X[..., 0], y=Y))


def test_a_test_part_without_labels_is_left_out_with_a_note(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (40, 6, 6), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:7] + 1, group_test=np.arange(7))
    samples = Npz().read(str(tmp_path / "a.npz"))
    assert len(samples) == 40
    assert set(samples.parts.tolist()) == {"train"}
    assert "x_test has no labels and is left out" in samples.notes[0]
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_val=x[:7])
    with pytest.raises(DataError, match="x_val without y_val"):
        Npz().read(str(tmp_path / "b.npz"))


def test_short_windows_that_are_taken_for_pictures_are_hinted_at(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 10, 2)).astype(np.float32)
    path = write_npz(tmp_path / "x.npz", x=x, y=np.arange(30) % 2)
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert "--channel-axis last for 10 values in 2 channels" in caught.value.fix
    found = open_dataset(path, channel_axis="last")
    assert (found.is_signal, found.size, found.channels) == (True, (1, 10), 2)
    with pytest.raises(DataError) as caught:
        open_dataset(write_npz(tmp_path / "z.npz", x=np.tile(x, (1, 3, 15)), y=np.arange(30) % 2))
    assert "--channel-axis" not in caught.value.fix


@pytest.mark.parametrize(
    ("y", "shown"),
    [
        (np.array([1e300, 2.0] * 3), r"1e\+300"),  # Converted, they would be -2^63.
        (np.array([2**64 - 1, 0] * 3, np.uint64), r"1.84467e\+19"),
        (np.array([0.0, 2.0**53 + 2] * 3), r"9.0072e\+15"),  # As a float 2^53 + 3 is another one.
    ],
)
def test_labels_beyond_whole_numbers_of_64_bits_are_shown_as_they_are(tmp_path, y, shown):
    path = write_npz(tmp_path / "a.npz", x=random_pictures(6, (4, 4, 1)), y=y)
    with pytest.raises(DataError, match=rf"y\[[01]\] = {shown}, the rule is whole numbers"):
        open_dataset(path)


def test_one_long_label_takes_its_memory_once():
    y = np.array([b"a", b"b"] * 100, "S100000")
    y[:3:2] = b"a" * 100_000
    tracemalloc.start()
    try:
        found = named_arrays._labels("y", y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.tolist() == [text.decode() for text in y.tolist()]
    assert peak < 5 << 20  # As an array of unicode texts they take 80 MB.
