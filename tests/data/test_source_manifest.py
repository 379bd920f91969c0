from __future__ import annotations

import json
import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.layouts.table_files import read_table
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.samples import numbered
from lepton_automl.data.sources.manifest import Manifest
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import write_folder


@pytest.fixture
def pictures(tmp_path):
    """`a/000.png` to `a/003.png` and `b/000.png` to `b/003.png`, beside the table."""
    return write_folder(tmp_path, {"a": 4, "b": 4})


def example(folder):
    write_folder(folder, {"a": 2, "b": 2})
    return table(folder, "file,label\na/000.png,x\nb/001.png,y\nb/000.png,y\n")


def table(folder, text, name="list.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(folder, text, name="list.csv", **options):
    return Manifest(**options).read(table(folder, text, name))


ROWS = [("a/000.png", "x"), ("b/000.png", "y"), ("b/001.png", "y")]


def test_a_column_of_parts_whose_values_name_none_is_said_with_the_way_to_use_it(pictures):
    lines = ["file,label,split"]
    lines += [f"{c}/{n:03}.png,{c},{'odd' if n % 2 else 'even'}" for c in "ab" for n in range(4)]
    samples = read(pictures, "\n".join(lines))
    (decision,) = [each for each in samples.decisions if each.name == "columns"]
    assert "parts are drawn, since even and odd in split name none" in decision.choice
    words = decision.option.split()
    assert words[0::2] == ["--columns", "--parts"]
    stated = {
        option: dict(word.split("=") for word in text.split(","))
        for option, text in zip(("columns", "parts"), words[1::2], strict=True)
    }
    found = read(pictures, "\n".join(lines), **stated)
    assert sorted(found.parts) == ["test"] * 4 + ["train"] * 4


def test_labels_that_are_quantities_are_told_from_classes(pictures):
    lines = ["file,label", *(f"{c}/{n:03}.png,{n / 7 + ord(c)}" for c in "ab" for n in range(4))]
    with pytest.raises(DataError, match="too few pictures in 8 of 8 classes") as caught:
        open_dataset(table(pictures, "\n".join(lines)))
    assert "quantities" in caught.value.fix
    names = ["file,label", *(f"{c}/{n:03}.png,{n}" for c in "ab" for n in range(4))]
    with pytest.raises(DataError) as caught:
        open_dataset(table(pictures, "\n".join(names)))
    assert "quantities" not in caught.value.fix


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("path", "label"),
        ("filename", "class"),
        ("Image_Path", "Category"),
        ("image", "target"),
        ("filepath", "species"),
        ("source", "label"),
        ("file", "kind"),
    ],
)
def test_columns_have_the_names_that_users_give_them(pictures, path, label):
    lines = [f"{label},{path}", *(f"{kind},{file}" for file, kind in ROWS)]
    samples = read(pictures, "\n".join(lines))
    assert samples.ids == tuple(file for file, _ in ROWS)
    assert [samples.class_names[n] for n in samples.labels] == ["x", "y", "y"]
    assert samples.pictures[0] == pictures / "a" / "000.png"
    (decision,) = samples.decisions
    assert decision.choice == f"path is {path}, label is {label}"
    assert decision.option == "--columns"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "path;label\na/000.png;x\nb/000.png;y\nb/001.png;y\n"),
        ("t.csv", "path\tlabel\r\na/000.png\tx\r\nb/000.png\ty\r\nb/001.png\ty\r\n"),
        ("t.csv", "sep=;\npath;label\na/000.png;x\nb/000.png;y\nb/001.png;y\n"),
        ("t.csv", '\ufeff"path","label"\n"a/000.png","x"\n\n"b/000.png","y"\n"b/001.png",y'),
        ("t.csv", ",path,label\n0,a/000.png,x\n1,b/000.png,y\n2,b/001.png,y\n"),
        ("t.tsv", "path\tlabel\na/000.png\tx\nb/000.png\ty\nb/001.png\ty\n"),
        ("t.jsonl", "\n".join(json.dumps({"path": p, "label": c}) for p, c in ROWS)),
        ("t.csv", "path,label\nb\\001.png,y\na\\000.png,x\nb\\000.png,y\n"),
        ("t.csv", "path,label\n./b/../b/001.png,y\na/000.png,x\nb//000.png,y\n"),
        ("t.csv", "id,label\na/000,x\nb/000,y\nb/001,y\n"),
    ],
    ids=[
        *("semicolon", "tab", "sep", "bom", "index", "tsv", "json", "backslash", "dots"),
        "no suffix",
    ],
)
def test_forms_of_tables(pictures, name, text):
    samples = read(pictures, text, name)
    assert samples.ids == tuple(file for file, _ in ROWS)
    assert samples.class_names == ("x", "y")
    assert samples.labels.tolist() == [0, 1, 1]


def test_numbers_are_classes_in_their_order_also_as_pandas_writes_them(pictures):
    rows = "a/000.png,10.0\na/001.png,2.0\nb/000.png,2.0\n"
    assert read(pictures, "path,label\n" + rows).class_names == ("2", "10")


def test_parts_groups_and_attributes(pictures):
    samples = read(
        pictures,
        "file,label,subset,patient,site\n"
        "a/000.png,x,training,P1,north\n"
        "a/001.png,x,val,P2,\n"
        "b/000.png,y,Train,P1,south\n"
        "b/001.png,y,test,,south\n",
    )
    assert samples.parts.tolist() == ["train", "validation", "train", "test"]
    assert samples.groups[0] == samples.groups[2]
    assert len(set(samples.groups.tolist())) == 3
    assert samples.attributes == {
        "patient": ("P1", "P2", "P1", ""),
        "site": ("north", "", "south", "south"),
    }
    columns, parts = samples.decisions
    assert "split is subset, group is patient; attributes: site" in columns.choice
    assert "train is training, validation is val, train is Train, test is test" in parts.choice


def test_stated_columns_and_parts_overrule_names(pictures):
    text = (
        "path,label,real,fold\na/000.png,x,u,0\na/001.png,x,v,1\nb/000.png,y,u,1\nb/001.png,y,v,0"
    )
    samples = read(
        pictures,
        text,
        columns={"label": "real", "split": "fold"},
        parts={"train": "0", "test": "1"},
    )
    assert samples.class_names == ("u", "v")
    assert samples.ids == ("a/000.png", "b/000.png", "a/001.png", "b/001.png")
    assert samples.parts.tolist() == ["train", "test", "test", "train"]
    assert samples.attributes.keys() == {"label"}
    everything = {"path": "path", "label": "label", "split": "none", "group": "none"}
    assert read(pictures, text, columns=everything).decisions == ()


def test_a_column_fold_of_numbers_is_an_attribute_and_no_part(pictures):
    samples = read(pictures, "path,label,fold\na/000.png,x,0\nb/000.png,y,1\n")
    assert samples.parts is None
    assert samples.attributes == {"fold": ("0", "1")}


def test_test_rows_without_labels_are_left_out_with_a_note(pictures):
    samples = read(
        pictures,
        "path,label,split\na/000.png,x,train\nb/000.png,y,train\na/001.png,,test\nb/001.png,,test\n",
    )
    assert samples.ids == ("a/000.png", "b/000.png")
    assert "2 rows of the test part have no label and are left out" in samples.notes[0]


def test_rows_that_repeat_another_are_ignored_with_a_note(pictures):
    samples = read(pictures, "path,label\na/000.png,x\nb/000.png,y\n./a/000.png,x\n")
    assert samples.ids == ("a/000.png", "b/000.png")
    assert samples.notes == (
        f"ignored 1 rows of {pictures / 'list.csv'} that repeat another, such as line 4 and line 2",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na/000.png,x\nb/009.png,y\n", r"line 3: 1 of 2 files are not there"),
        ("path,label\na/000.png,x\na/000.png,y\n", r"line 2, line 3: .*labels 'x' and 'y'"),
        (
            "path,label,split\na/000.png,x,train\nb/000.png,y,train\na/000.png,x,test\n",
            "line 2, line 4: .*parts train and test",
        ),
        ("path,label\na/000.png,x\nb/000.png,\n", "line 3: 1 of 2 rows have no label"),
        ("path,label\na/000.png,x\n,y\n", "line 3: no path"),
        ("path,label\na/000.png,x\nb/000.png,y,z\n", "line 3: 3 columns"),
        ("path,label\na/000.png,x\nb/000.png\n", "line 3: 1 columns"),
        ('path,label\na/000.png,x\n"b/000.png,y\n', "line 3: unexpected end"),
        ("path,label\na/000.png,x\n../b.png,y\n", r"line 3: '../b.png' leads out of"),
        ("path,label\na/../../b.png,x\n", "line 2: .* leads out of"),
        ("path,label\n/etc/b.png,x\n", "line 2: '/etc/b.png' leads out of"),
        ("path,label\nhttps://x.org/b.png,x\n", "line 2: .* is an address"),
        ("1,-0.78\n2,-0.77\n", "line 1: it holds numbers, '1,-0.78', and no names of columns"),
        ("2,0.5,0.5,0.1\n1,0.5,0.4,0.2\n", "line 1: it holds numbers"),
        ("path,label,path\na/000.png,x,b\n", "two columns are named 'path'"),
        ("path\na/000.png\n", "one column"),
        ("path,label\n", "no rows"),
        ("", "is empty"),
        ("a/000.png,x\nb/000.png,y\n", "line 1: it names a picture"),
        ("kind,n\nx,1\ny,2\n", "no column names picture files"),
        ("path,a,b\na/000.png,1,2\n", "no column is named as a label"),
        ("path,label,Label\na/000.png,1,2\n", "'Label' and 'label' both could be the label"),
        ("path,label,split\na/000.png,x,train\nb/000.png,y,nowhere\n", "line 3: 'nowhere'"),
        ("path,label,weight\na/000.png,x,0.5\nb/000.png,y,1\n", "has a column 'weight'"),
        (b"path,label\na/000.png,x\nb/000.png,gr\xfcn\n", "line 3: byte 0xfc is not UTF-8"),
        ("path,label\na/000.png,x\n".encode("utf-16"), "UTF-16"),
        (b"path,label\na/000.png,x\0\n", "NUL"),
        ("path,label\na/000.png,x\nb/000.png,a\x1bb\n", "line 3: the label"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(pictures, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read(pictures, text)
    assert "list.csv" in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a/000.png", "label": "x"}\n{"path"', "line 2: "),
        ('{"path": "a/000.png", "label": "x"}\n[1]\n', "line 2: it holds an array"),
        ('{"path": "a/000.png", "label": "x"}\n{"path": "b/000.png"}\n', "line 2: 1 of 2 rows"),
    ],
)
def test_wrong_json_lines_are_named_with_their_line(pictures, text, message):
    with pytest.raises(DataError, match=message):
        read(pictures, text, "list.jsonl")


def test_a_table_of_numbers_is_refused_with_the_name_of_a_better_tool(tmp_path):
    text = "id,length,width,label\n1,5.1,3.5,0\n2,4.9,3.0,1\n"
    with pytest.raises(DataError, match="table of numbers") as caught:
        read(tmp_path, text)
    assert "scikit-learn" in caught.value.fix
    assert "AutoGluon" in caught.value.fix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"label": "lable"}}, "'lable' is not a column"),
        ({"columns": {"lable": "label"}}, "'lable' is not a kind of column"),
        ({"columns": {"label": "none"}}, "a table needs it"),
        ({"columns": {"label": "path", "path": "path"}}, "names 'path' twice"),
        ({"columns": {"weight": "n"}}, "weights cannot be used"),
        ({"parts": {"train": "a"}}, "--parts has no effect"),
        ({"columns": {"split": "label"}, "parts": {"train": "z"}}, "has no such value"),
        ({"columns": {"split": "label"}, "parts": {"train": "x"}}, "does not say what 'y'"),
    ],
)
def test_options_that_do_not_fit_are_refused(pictures, options, message):
    with pytest.raises(ConfigError, match=message):
        read(pictures, "path,label,n\na/000.png,x,1\nb/000.png,y,2\n", **options)


def test_root_is_where_paths_start_and_what_they_must_not_leave(pictures):
    inner = pictures / "tables"
    inner.mkdir()
    rows = f"path,label\na/000.png,x\n{pictures}/b/000.png,y\n"
    samples = read(inner, rows, root=pictures)
    assert samples.ids == ("a/000.png", "b/000.png")
    with pytest.raises(DataError, match=r"line 3: .* leads out of") as caught:
        read(inner, rows)
    assert "--root" in caught.value.fix
    with pytest.raises(DataError, match="leads out of"):
        read(inner, rows, root=pictures / "a")
    with pytest.raises(ConfigError, match="not a folder"):
        read(inner, rows, root=pictures / "list.csv")


def test_missing_pictures_are_found_in_a_folder_beside_the_table(pictures):
    with pytest.raises(DataError) as caught:
        read(pictures, "path,label\n000.png,x\n001.png,y\n")
    assert caught.value.fix in (f"give --root {pictures / 'a'}", f"give --root {pictures / 'b'}")


def test_a_long_row_and_a_long_line_are_refused_before_they_take_memory(tmp_path):
    with pytest.raises(DataError, match="line 2: a row goes on for 100 lines"):
        read(tmp_path, 'path,label\n"' + "a\n" * 200)
    with pytest.raises(DataError, match="characters, at most"):
        read(tmp_path, "path,label\n" + "," * (1 << 21))


def labelled(folder, count=40):
    """A table of 2 x `count` pictures with a device, a date, and a group of four each."""
    write_folder(folder, {"a": count, "b": count})
    rows = [
        f"{c}/{n:03}.png,{c},D{n // 4},2024-01-{1 + n * 28 // count:02}"
        for n in range(count)
        for c in "ab"
    ]
    return table(folder, "\n".join(["path,label,device,date", *rows]))


def test_groups_are_the_values_of_the_column_that_is_named(tmp_path):
    dataset = open_dataset(labelled(tmp_path), group="device")
    device = [{int(name[2:5]) // 4 for name in part.ids} for part in dataset.parts]
    assert sum(map(len, device)) == len(set.union(*device)) == 10
    assert all(len(part) > 4 for part in dataset.parts)
    with pytest.raises(ConfigError, match="not a column of the data") as caught:
        open_dataset(tmp_path / "list.csv", group="devise")
    assert "device" in caught.value.fix


def test_parts_are_cut_in_time_and_the_decision_says_where(tmp_path):
    dataset = open_dataset(labelled(tmp_path), time="date")
    dates = [sorted({int(name[2:5]) * 28 // 40 for name in part.ids}) for part in dataset.parts]
    assert dates[0][-1] < dates[1][0] <= dates[1][-1] < dates[2][0]
    decision = next(each for each in dataset.decisions if each.name == "parts")
    assert f"test from 2024-01-{dates[2][0] + 1:02} to 2024-01-28" in decision.choice
    np.testing.assert_allclose(
        [len(part) / 80 for part in dataset.parts], [0.7, 0.15, 0.15], atol=0.06
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "when"}, "no such column"),
        ({"time": "device"}, "'D0' of a/000.png is not a time"),
    ],
)
def test_a_time_that_cannot_be_used_is_refused(tmp_path, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        open_dataset(labelled(tmp_path, 4), **options)


def test_options_of_tables_have_no_effect_elsewhere(tmp_path):
    for options, name in (
        ({"columns": "path=x"}, "--columns"),
        ({"root": tmp_path}, "--root"),
        ({"time": "x"}, "--time"),
    ):
        with pytest.raises(ConfigError, match=name):
            open_dataset("digits", **options)


def test_rows_whose_pictures_are_not_there_are_left_out_on_request(pictures):
    lines = [f"{name}/{n:03}.png,{name}" for name in ("a", "b") for n in range(4)]
    data = pictures / "more.csv"
    data.write_text("path,label\n" + "\n".join([*lines, "b/999.png,b"]) + "\n")
    with pytest.raises(DataError, match="1 of 9 files are not there") as caught:
        open_dataset(data)
    assert "--skip-corrupt" in caught.value.fix
    dataset = open_dataset(data, skip_corrupt=True)
    assert sum(map(len, dataset.parts)) == 8
    assert [each.id for each in dataset.unreadable] == ["b/999.png"]


@pytest.mark.parametrize("skip_corrupt", [False, True])
@pytest.mark.parametrize(
    ("table", "folder"),
    [("labels.csv", "train"), ("meta/labels.csv", "meta/train"), ("meta/labels.csv", "pictures")],
)
def test_a_folder_below_or_beside_the_table_is_named_also_without_suffixes(
    tmp_path, table, folder, skip_corrupt
):
    """As Kaggle and ESC-50 have them: `labels.csv` and `train/ID.jpg`; `meta/` and `audio/`."""
    for name in random_names(6):
        path = tmp_path / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    data = tmp_path / table
    data.parent.mkdir(exist_ok=True)
    rows = [f"{name},{'ab'[n % 2]}" for n, name in enumerate(random_names(6))]
    data.write_text("id,breed\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="6 of 6 files are not there") as caught:
        open_dataset(data, skip_corrupt=skip_corrupt)
    assert caught.value.fix == f"give --root {tmp_path / folder}"
    assert len(Manifest(root=tmp_path / folder).read(str(data))) == 6


def test_files_in_several_folders_are_found_where_each_name_is_in_one(tmp_path):
    """As HAM10000 has them: `HAM10000_images_part_1` and `_2`."""
    where = {}
    for n, name in enumerate(random_names(6)):
        path = tmp_path / f"part_{n % 3 // 2}" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (40 * n, 0, 0)).save(path)
        where[name] = path.relative_to(tmp_path).as_posix()
    rows = [f"{n // 2},{name},{'ab'[n % 2]}" for n, name in enumerate(random_names(6))]
    data = tmp_path / "a.csv"
    data.write_text("lesion_id,image_id,dx\n" + "\n".join(rows) + "\n")
    samples = Manifest().read(str(data))
    assert set(samples.ids) == set(where.values())
    assert any("in 2 folders" in note and "part_0, part_1" in note for note in samples.notes)
    (tmp_path / "part_1" / f"{random_names(1)[0]}.png").write_bytes(b"a second one")
    with pytest.raises(DataError, match="6 of 6 files are not there") as caught:
        Manifest().read(str(data))
    assert re.match(r"[34] of them are in .*part_[01]: move all", caught.value.fix)


def random_names(count):
    return [f"{7 * n:08x}e" for n in range(count)]


def one_hot(folder, head, *rows):
    """A table of rows `NAME,CELLS`, and its pictures."""
    for row in rows:
        Image.new("L", (4, 4)).save(folder / f"{row.split(',')[0]}.png")
    (folder / "a.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder / "a.csv")


@pytest.mark.parametrize(
    ("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("true", "false")]
)
def test_columns_of_classes_with_one_1_in_each_row_are_labels(tmp_path, one, zero):
    """Oracle: numpy's argmax over the columns."""
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 3, 12)
    cells = [",".join(one if n == k else zero for k in range(3)) for n in wanted]
    rows = [f"i{n:02},{each},{n + 20}" for n, each in enumerate(cells)]
    data = one_hot(tmp_path, "image,dog,cat,bird,width", *rows)
    samples = Manifest().read(data)
    found = dict(zip(samples.ids, samples.labels.tolist(), strict=True))
    names = [samples.class_names[found[f"i{n:02}.png"]] for n in range(12)]
    assert names == [("dog", "cat", "bird")[n] for n in wanted]
    assert samples.class_names == ("bird", "cat", "dog")
    assert set(samples.attributes) == {"width"}
    (decision,) = (d for d in samples.decisions if d.name == "columns")
    assert "the name of the column with the 1, of 3: dog, cat, bird" in decision.choice
    assert "one-hot" in decision.evidence

    stated = Manifest(columns={"label": "dog+cat+bird"}).read(data)
    assert stated.ids == samples.ids
    assert stated.labels.tolist() == samples.labels.tolist()


def test_a_test_part_without_ones_has_no_labels(tmp_path):
    rows = [f"i{n},{n % 2},{1 - n % 2},train" for n in range(4)]
    data = one_hot(tmp_path, "image,dog,cat,split", *rows, "t0,,,test", "t1,,,test")
    samples = Manifest().read(data)
    assert len(samples) == 4
    assert any("2 rows of the test part have no label" in note for note in samples.notes)


@pytest.mark.parametrize(
    ("head", "rows", "columns", "said", "fix"),
    [
        ("image,MEL,NV", ("a,1,0", "b,0,1", "c,1,1"), None, "line 4: 1 of 3 rows", "label=MEL+NV;"),
        ("image,MEL,NV", ("a,1,0", "b,0,1", "c,0,0"), None, "line 4: 1 of 3 rows", "label=COLUMN"),
        ("image,MEL,NV", ("a,1,0", "b,0,1", "c,1,"), None, "line 4: 1 of 3 rows", "label=COLUMN"),
        ("image,MEL,NV", ("a,1,1", "b,0,0", "c,1,0"), None, "no column is named", "label=A+B+C"),
        (
            *("image,left,right,kind", ("a,1,0,x", "b,0,1,y", "c,0,1,x", "d,1,0,y")),
            *(None, "left, right could be.*and kind", "label=left+right or --columns label=kind"),
        ),
        ("image,train,test", ("a,1,0", "b,0,1"), None, "no column is named as a label", "label="),
        ("image,a,b", ("x,1,0", "y,2,1"), "a+b", "the column 'a' holds other values", "one is 1"),
        ("image,a,b", ("x,1,0", "y,1,1"), "a+b", "1 of 2 rows have no 1, or several", "leave them"),
    ],
)
def test_other_columns_of_ones_are_asked_about(tmp_path, head, rows, columns, said, fix):
    data = one_hot(tmp_path, head, *rows)
    with pytest.raises(DataError, match=said) as caught:
        Manifest(columns=columns and {"label": columns}).read(data)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("label", "said"), [("a+c", "'c'"), ("a+a", "names 'a' twice"), ("a+image", "'image' twice")]
)
def test_stated_columns_of_classes_are_columns_of_their_own(tmp_path, label, said):
    data = one_hot(tmp_path, "image,a,b", "x,1,0", "y,0,1")
    with pytest.raises(ConfigError, match=said):
        Manifest(columns={"path": "image", "label": label}).read(data)


def test_numbers_of_classes_as_the_signs_of_gtsrb_have_them(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / "Train.csv").write_text("Width,Roi.X1,ClassId,Path\n48,5,7,0.png\n")
    assert Manifest().read(str(tmp_path / "Train.csv")).class_names == ("7",)


def test_labels_of_more_digits_than_python_converts_are_names(pictures):
    labels = {"a": "22", "b": "1" * 5000}
    rows = [f"{folder}/00{n}.png,{labels[folder]}\n" for folder in labels for n in range(4)]
    dataset = open_dataset(table(pictures, "path,label\n" + "".join(rows)))
    assert dataset.class_names == ("1" * 5000, "22")


def test_a_long_text_of_one_group_takes_its_memory_once(tmp_path):
    texts = ["g" * 100_000, *(f"{n // 2}" for n in range(999))]
    tracemalloc.start()
    try:
        names, places = numbered(texts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    wanted, order = np.unique(np.array([text[:9] for text in texts]), return_inverse=True)
    assert [name[:9] for name in names] == wanted.tolist()
    np.testing.assert_array_equal(places, order)
    assert peak < 10 << 20  # numpy's array of these texts takes 400 MB.


def test_two_keys_of_a_json_line_that_differ_in_spaces_are_refused(pictures):
    rows = [json.dumps({"path": p, "label": c, " label": "x"}) for p, c in ROWS]
    with pytest.raises(DataError, match="line 1: two keys are 'label' without the spaces"):
        read(pictures, "\n".join(rows), "list.jsonl")


def test_json_lines_with_ever_more_keys_are_refused_before_they_take_memory(pictures):
    text = json.dumps({f"key{n}": n for n in range(4000)}) + "\n{}" * 20_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="with 4000 different keys"):
            read(pictures, text, "list.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_rows_that_lack_keys_have_empty_cells(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"a": 1}\n{"b": 2}\n{"a": 3, "c": null}\n{}\n')
    found = read_table(tmp_path / "list.jsonl").columns
    assert found == {"a": ["1", "", "3", ""], "b": ["", "2", "", ""], "c": ["", "", "", ""]}
