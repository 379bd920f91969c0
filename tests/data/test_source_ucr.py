from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_automl.data.layouts.ucr_series import labelled, read_series
from lepton_automl.data.loading import find_source
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.ucr import Ucr
from lepton_automl.errors import ConfigError, DataError

HEAD = (
    "# a comment, não ASCII\n@problemName moves\n@timeStamps false\n@classLabel true a b\n@data\n"
)


def series(count, length=20, channels=2, seed=0):
    """Random series (count, length, channels) that a text of six digits holds."""
    values = np.random.default_rng(seed).normal(0, 3, (count, length, channels))
    return values.round(6)


def ts(path, values, labels, head=HEAD):
    """Write a `.ts` file: a line a series, `:` between its channels and before its label."""
    lines = [
        ":".join([*(",".join(f"{v:.6f}" for v in channel) for channel in each.T), label])
        for each, label in zip(values, labels, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def tsv(path, values, labels, between="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        between.join([label, *map("{:.6f}".format, each)])
        for each, label in zip(values, labels, strict=True)
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def example(folder):
    for part, seed in (("TRAIN", 1), ("TEST", 2)):
        ts(folder / "moves" / f"moves_{part}.ts", series(8, seed=seed), "abababab")
    return str(folder / "moves")


def test_a_folder_of_the_archive_has_its_parts_and_values(tmp_path):
    samples = Ucr().read(example(tmp_path))
    assert samples.class_names == ("a", "b")
    assert sorted(
        {*zip(samples.parts.tolist(), (n.split(":")[0] for n in samples.ids), strict=True)}
    ) == [
        ("test", "moves_TEST.ts"),
        ("train", "moves_TRAIN.ts"),
    ]
    is_train = samples.parts == "train"
    np.testing.assert_array_equal(samples.signals[is_train], series(8, seed=1).astype(np.float32))
    np.testing.assert_array_equal(samples.signals[~is_train], series(8, seed=2).astype(np.float32))
    assert samples.labels.tolist() == [0, 1] * 8
    assert samples.groups is None


@pytest.mark.parametrize("between", ["\t", ",", "  "])
@pytest.mark.parametrize("labels", ["-1 1 2 -1", "-1.0000000e+00 1.0e+00 2.0000e+00 -1.0e+00"])
def test_tables_of_ucr_have_the_label_first_and_no_names(tmp_path, between, labels):
    path = tmp_path / ("moves_TRAIN.tsv" if between == "\t" else "moves_TRAIN.txt")
    values = series(4, channels=1)
    values[1, 3] = values[0, 2]  # Read as names of columns, two would be equal.
    tsv(path, values[..., 0], labels.split(), between)
    name, source = find_source(str(path))
    assert name == "ucr"
    samples = source().read(str(path))
    assert samples.class_names == ("-1", "1", "2")
    assert samples.labels.tolist() == [0, 1, 2, 0]
    assert samples.parts is None
    np.testing.assert_array_equal(samples.signals, values.astype(np.float32))


def test_a_table_of_pictures_with_such_a_name_is_still_a_table(tmp_path):
    (tmp_path / "pets_TRAIN.tsv").write_text("path\tlabel\n1.png\tcat\n")
    assert find_source(str(tmp_path / "pets_TRAIN.tsv"))[0] == "manifest"
    assert find_source(str(tmp_path))[0] != "ucr"


def test_series_of_other_lengths_are_cut_and_what_fills_them_up_is_left_out(tmp_path):
    values = [series(1, length, seed=length)[0] for length in (9, 16, 24, 30)]
    ts(tmp_path / "x_TRAIN.ts", values, "abab")
    samples = Ucr(window=8, stride=8).read(str(tmp_path))
    counts = [sum(n.startswith(f"x_TRAIN.ts:{6 + k}[") for n in samples.ids) for k in range(4)]
    assert counts == [1, 2, 3, 3]
    assert samples.recordings.tolist() == np.repeat(np.arange(4), counts).tolist()
    filled = np.full((4, 30, 2), np.nan)
    for row, each in zip(filled, values, strict=True):
        row[: len(each)] = each
    ts(tmp_path / "x_TRAIN.ts", filled, "abab")
    again = Ucr(window=8, stride=8).read(str(tmp_path))
    np.testing.assert_array_equal(again.signals, samples.signals)


def test_of_several_names_that_of_the_folder_is_read(tmp_path):
    data = example(tmp_path)
    first = Ucr().read(data)
    ts(tmp_path / "moves" / "moves_eq_TRAIN.ts", series(3, 5), "aba")
    assert Ucr().read(data).ids == first.ids
    (tmp_path / "moves").rename(tmp_path / "other")
    with pytest.raises(DataError, match="several names") as error:
        Ucr().read(str(tmp_path / "other"))
    assert "NAME_TRAIN.ts" in error.value.fix


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no line @data"),
        (HEAD, "holds no series"),
        ("const x = 1;\nexport default x;\n", "no line @data"),
        (HEAD + "1,2,3\n", "line 6: no values"),
        (HEAD + "1,2,3:\n", "line 6: no values, or no label"),
        (HEAD + "1,2,3:4,5:a\n", "line 6: its channels have different numbers"),
        (HEAD + "1,2,3:a\n1,2,3:4,5,6:b\n", "series of 1 and 2 channels"),
        (HEAD + "1,x,3:a\n", "line 6: could not convert"),
        (HEAD + "?,?:a\n", "line 6: a series without values"),
        (HEAD + "1,?,3:a\n1,2,3:b\n", "x.ts:6.* NaN"),
        (HEAD.replace("Stamps false", "Stamps true") + "(0,1),(1,2):a\n", "@timeStamps true"),
        (HEAD.replace("classLabel true a b", "classLabel false") + "1,2\n", "no labels"),
        (HEAD.replace("classLabel true a b", "targetLabel true") + "1,2:3\n", "numbers as labels"),
    ],
)
def test_other_files_are_one_error(tmp_path, text, what):
    (tmp_path / "x.ts").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what) as error:
        Ucr().read(str(tmp_path / "x.ts"))
    assert error.value.fix


def test_the_test_file_is_the_test_part_and_other_options_are_refused(tmp_path):
    folder = example(tmp_path)
    train, test = (f"{folder}/moves_{part}.ts" for part in ("TRAIN", "TEST"))
    dataset = open_dataset(train, test=Path(test))
    assert len(dataset.test.labels) == 8
    with pytest.raises(ConfigError, match="--columns has no effect"):
        open_dataset(train, columns="label=x")


def test_series_to_be_classified_need_no_labels(tmp_path):
    """Oracle: the values that were written, and pieces of them a stride apart."""
    long = series(3, length=34).astype(np.float32)
    lines = [":".join(",".join(f"{v:.6f}" for v in c) for c in each.T) for each in long]
    head = HEAD.replace("@classLabel true a b", "@classLabel false")
    (tmp_path / "plain.ts").write_text(head + "\n".join(lines), encoding="utf-8")
    ts(tmp_path / "labels.ts", long, "aba")
    for name in ("plain.ts", "labels.ts"):
        found = read_series(tmp_path / name, 20, 2, 7)
        first = len(head.splitlines()) + 1
        assert [place for place, _ in found] == [f"line {first + n}" for n in range(3)]
        for (_, windows), each in zip(found, long, strict=True):
            assert windows.starts == (0, 7, 14)
            expected = [each[n : n + 20] for n in windows.starts]
            np.testing.assert_array_equal(windows.values, expected)
        whole = read_series(tmp_path / name, 34, 2)
        assert [windows.starts for _, windows in whole] == [()] * 3
        np.testing.assert_array_equal(np.concatenate([w.values for _, w in whole]), long)
    with pytest.raises(DataError, match="3 parts between `:`, the net reads 1 channel"):
        read_series(tmp_path / "labels.ts", 20, 1)
    with pytest.raises(DataError, match="a series of 34 values; the net reads windows of 35"):
        read_series(tmp_path / "labels.ts", 35, 2)


@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
def test_lines_of_values_to_be_classified_may_begin_with_a_label(tmp_path, suffix):
    values = series(4, channels=1)[:, :, 0]
    tsv(tmp_path / f"labels{suffix}", values, "1212")
    plain = "\n".join("\t".join(map("{:.6f}".format, row)) for row in values)
    (tmp_path / f"plain{suffix}").write_text(plain)
    for name in (f"labels{suffix}", f"plain{suffix}"):
        found = read_series(tmp_path / name, 20, 1)
        given = np.concatenate([windows.values for _, windows in found])[:, :, 0]
        np.testing.assert_array_equal(given, values.astype(np.float32))


@pytest.mark.parametrize("text", ["x\ty\n1\t2\n", "1\n2\n3\n", "1.5\n", ""])
def test_other_tables_are_no_lines_of_series(tmp_path, text):
    (tmp_path / "a.tsv").write_text(text)
    assert read_series(tmp_path / "a.tsv", 20, 1) is None
    assert read_series(tmp_path / "a.csv", 20, 1) is None


def test_labels_of_many_digits_stay_different_classes(tmp_path):
    labels = [
        "1000001",
        "1000002",
        "0.1234567",
        "0.1234568",
        "2.000e+00",
        str(2**53),
        str(2**53 + 1),
    ]
    path = tmp_path / "moves_TRAIN.tsv"
    tsv(path, series(len(labels), channels=1)[..., 0], labels)
    found = [each.labels for each in labelled(path, "train")]
    assert found == [*labels[:4], "2", *labels[5:]]
