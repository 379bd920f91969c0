from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources import parquet
from lepton_automl.data.sources.audio_folder import AudioFolder
from lepton_automl.data.sources.parquet import Parquet
from lepton_automl.errors import ConfigError, DataError, MachineError
from tests.data.test_source_tar_shards import png
from tests.helpers.pictures import random_pictures, write_npz
from tests.helpers.sounds import tone, wav_bytes
from tests.helpers.sounds import write as write_wav

X = random_pictures(24, (9, 7, 3))
Y = np.arange(24) % 2


def needs_pyarrow():
    return pytest.importorskip("pyarrow", reason="reading Parquet needs lepton-automl[parquet]")


def table(columns, names=None):
    """A table of columns, with the description that Hugging Face writes."""
    pa = needs_pyarrow()
    made = pa.table(columns)
    if names is None:
        return made
    feature = {"names": names, "_type": "ClassLabel"}
    described = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(described)})


def save(path, made, **options):
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True, parents=True)
    parquet.write_table(made, path, **options)
    return str(path)


def write(path, x, y, names=None, **more):
    """Picture files and labels as the Hub has them."""
    files = [{"bytes": png(pixels), "path": f"{n}.png"} for n, pixels in enumerate(x)]
    columns = {"image": files, "label": y} | {k: list(v) for k, v in more.items()}
    return save(path, table(columns, names), row_group_size=5)


def example(folder):
    return write(folder / "x.parquet", X, Y, ["no", "yes"])


def test_a_folder_of_the_hub_is_read_with_its_names_and_splits(tmp_path):
    hub = tmp_path / "hub"
    write(hub / "data" / "train-00000-of-00002.parquet", X[:8], Y[:8], ["no", "yes"])
    write(hub / "data" / "train-00001-of-00002.parquet", X[8:16], Y[8:16], ["no", "yes"])
    write(hub / "data" / "test-00000-of-00001.parquet", X[16:], Y[16:], ["no", "yes"])
    (hub / "README.md").write_text("about")
    samples = Parquet().read(str(hub))
    assert samples.class_names == ("no", "yes")
    assert (samples.parts == "train").sum() == 16
    assert (samples.parts == "test").sum() == 8
    found = dict(zip(samples.ids, zip(samples.pictures, samples.labels, strict=True), strict=True))
    picture, label = found["train-00001-of-00002/000003-3.png"]
    assert picture.read(max_bytes=1 << 20, fix="") == png(X[11])
    assert label == Y[11]


def test_folders_of_converted_sets_are_parts(tmp_path):
    for part, rows in (("train", slice(16)), ("test", slice(16, 24))):
        write(tmp_path / "default" / part / "0000.parquet", X[rows], Y[rows])
    samples = Parquet().read(str(tmp_path))
    assert sorted(set(samples.parts.tolist())) == ["test", "train"]
    assert samples.class_names == ("0", "1")


def test_several_configurations_are_refused_with_their_folders(tmp_path):
    for name in ("small", "large"):
        write(tmp_path / name / "train" / "0000.parquet", X, Y)
    with pytest.raises(DataError, match="large, small") as caught:
        open_dataset(tmp_path)
    assert str(tmp_path / "large") in caught.value.fix
    assert len(Parquet().read(str(tmp_path / "small"))) == 24


@pytest.mark.parametrize("kind", ["nested lists", "fixed lists", "floats"])
def test_columns_of_arrays_are_the_arrays_of_an_npz_file(tmp_path, kind):
    pa = needs_pyarrow()
    x = X[..., 0]
    if kind == "floats":
        x = np.random.default_rng(0).normal(size=(24, 3, 40)).astype(np.float32)
    if kind == "fixed lists":
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[2])
        column = pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    else:
        number = pa.float32() if kind == "floats" else pa.uint8()
        column = pa.array(x.tolist(), pa.list_(pa.list_(number)))
    path = save(tmp_path / "x.parquet", table({"image": column, "label": Y}, ["no", "yes"]))
    other = write_npz(tmp_path / "x.npz", x=x, y=Y, class_names=np.array(["no", "yes"]))
    one, other = open_dataset(path), open_dataset(other)
    assert one.fingerprint == other.fingerprint
    assert one.is_signal == (kind == "floats")


def test_columns_are_groups_and_attributes(tmp_path):
    path = write(tmp_path / "x.parquet", X, Y, patient=np.arange(24) // 4, site=["x", "y"] * 12)
    samples = Parquet().read(path)
    assert len(set(samples.groups.tolist())) == 6
    assert set(samples.attributes) == {"patient", "site"}


def test_columns_can_be_stated(tmp_path):
    files = [{"bytes": png(pixels), "path": None} for pixels in X]
    columns = {"left": files, "right": files[::-1], "kind": Y, "other": Y[::-1]}
    path = save(tmp_path / "x.parquet", table(columns))
    with pytest.raises(DataError, match="several columns hold pictures"):
        open_dataset(path)
    samples = Parquet(columns={"image": "right", "label": "kind"}).read(path)
    first = samples.ids.index("x/000000.png")
    assert samples.pictures[first].read(max_bytes=1 << 20, fix="") == png(X[23])
    with pytest.raises(ConfigError, match="no such column of pictures"):
        open_dataset(path, columns="image=kind,label=other")


@pytest.mark.parametrize("kind", [int, float, bool])
def test_columns_of_classes_with_one_1_in_each_row_are_labels(tmp_path, kind):
    files = [{"bytes": png(pixels), "path": None} for pixels in X]
    hot = {name: (n == Y).astype(kind).tolist() for n, name in enumerate(("dog", "cat"))}
    path = save(tmp_path / "x.parquet", table({"image": files, **hot}))
    for samples in (Parquet().read(path), Parquet(columns={"label": "dog+cat"}).read(path)):
        rows = [int(name.rpartition("/")[2][:6]) for name in samples.ids]
        names = [samples.class_names[label] for label in samples.labels]
        assert names == [("dog", "cat")[Y[row]] for row in rows]


def test_labels_that_are_kept_back_leave_the_part_out(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", X[:16], Y[:16], ["no", "yes"])
    write(tmp_path / "test-00000-of-00001.parquet", X[16:], np.full(8, -1), ["no", "yes"])
    samples = Parquet().read(str(tmp_path))
    assert len(samples) == 16
    assert "8 rows of the test part have no label" in samples.notes[0]


def test_an_absent_picture_is_named_as_one_that_cannot_be_read(tmp_path):
    files = [{"bytes": png(pixels), "path": None} for pixels in X]
    files[3] = {"bytes": None, "path": "elsewhere.png"}
    path = save(tmp_path / "x.parquet", table({"image": files, "label": Y}))
    with pytest.raises(DataError, match=r"1 of 24 pictures cannot be read: the picture x/000003"):
        open_dataset(path)
    assert len(open_dataset(path, skip_corrupt=True).train) < 24


@pytest.mark.parametrize("damage", ["cut", "not one", "middle", "claims"])
def test_damaged_files_are_one_message(tmp_path, damage):
    path = example(tmp_path)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "not one":
        content = b"\0" * 100
    elif damage == "middle":
        content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    else:  # Length of the footer.
        content[-8:-4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.parquet"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": Y, "price": Y}, "no column holds pictures"),
        ({"image": [[1], [1, 2]] * 12, "label": Y}, "several shapes"),
        ({"image": [], "label": []}, "no column holds pictures|holds no rows"),
    ],
)
def test_tables_without_pictures_are_refused(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        open_dataset(save(tmp_path / "x.parquet", table(columns)))


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError, match="pyarrow") as caught:
        open_dataset(tmp_path / "x.parquet")
    assert "lepton-automl[parquet]" in caught.value.fix


def write_sound(path, contents, labels, *, is_described=True, **more):
    files = [{"bytes": content, "path": None} for content in contents]
    made = table({"audio": files, "label": labels, **more})
    if is_described:
        label = {"names": ["high", "low"], "_type": "ClassLabel"}
        described = {"info": {"features": {"audio": {"_type": "Audio"}, "label": label}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(described)})
    return save(path, made)


@pytest.mark.parametrize("is_described", [True, False])
def test_a_column_of_sound_is_read_as_a_folder_of_sound(tmp_path, is_described):
    paths = [tmp_path / "wav" / ("high", "low")[n % 2] / f"{n:03}.wav" for n in range(8)]
    for n, path in enumerate(paths):
        write_wav(path, tone((900, 300)[n % 2], 0.4 + 0.1 * (n % 3), seed=n))
    contents = [path.read_bytes() for path in paths]
    labels = [0, 1] * 4 if is_described else ["high", "low"] * 4
    path = write_sound(tmp_path / "x.parquet", contents, labels, is_described=is_described)
    how = {"window": 2400, "stride": 1200}
    one, other = Parquet(**how).read(path), AudioFolder(**how).read(str(tmp_path / "wav"))
    np.testing.assert_array_equal(one.sound, other.sound)
    np.testing.assert_array_equal(one.recordings, other.recordings)
    assert [one.class_names[n] for n in one.labels] == [other.class_names[n] for n in other.labels]
    assert one.audio == other.audio
    assert one.ids[0] == "x/000000.wav[0]"


def test_columns_beside_sound_are_groups_and_attributes(tmp_path):
    contents = [wav_bytes(tone(500, 0.3, seed=n)) for n in range(8)]
    more = {"speaker": ["a", "b"] * 4, "room": ["x", "y", "z", "w"] * 2}
    path = write_sound(tmp_path / "x.parquet", contents, [0, 1] * 4, **more)
    samples = Parquet().read(path)
    assert len(set(samples.groups.tolist())) == 2
    assert samples.attributes["room"] == ("x", "z", "x", "z", "y", "w", "y", "w")


def test_names_of_files_are_in_those_of_samples_so_that_they_say_groups(tmp_path):
    names = [f"a/b\\{n % 2}_{('ann', 'bob', 'cat')[n // 2 % 3]}\n_{n}.wav" for n in range(12)]
    contents = [wav_bytes(tone(500 + 400 * (n % 2), 0.3, seed=n)) for n in range(12)]
    files = [{"bytes": c, "path": n} for c, n in zip(contents, names, strict=True)]
    path = save(tmp_path / "x.parquet", table({"audio": files, "label": [0, 1] * 6}))
    assert Parquet().read(path).ids[0] == "x/000000-0_ann__0.wav"
    dataset = open_dataset(path, group="_([a-z]+)_")
    groups = [{name.split("_")[1] for name in part.ids} for part in dataset.parts]
    assert sorted(map(sorted, groups)) == [["ann"], ["bob"], ["cat"]]


@pytest.mark.parametrize(("name", "wanted"), [("p.jpeg", "p.jpeg"), ("p.x", "p.x.png"), ("", "")])
def test_the_suffix_is_that_of_the_content_where_the_name_has_none(tmp_path, name, wanted):
    files = [{"bytes": png(pixels), "path": name or None} for pixels in X]
    samples = Parquet().read(save(tmp_path / "x.parquet", table({"image": files, "label": Y})))
    assert samples.ids[0] == (f"x/000000-{wanted}" if wanted else "x/000000.png")


def test_options_of_sound_have_no_effect_on_pictures(tmp_path):
    for options in ({"window": 100}, {"rate": 8000}):
        with pytest.raises(ConfigError, match="has no effect"):
            open_dataset(example(tmp_path), **options)


def test_a_recording_that_cannot_be_read_is_named(tmp_path):
    contents = [wav_bytes(tone(500, 0.3, seed=n)) for n in range(8)]
    contents[3] = b"RIFF1234WAVE"
    path = write_sound(tmp_path / "x.parquet", contents, [0, 1] * 4)
    with pytest.raises(DataError, match=r"1 of 8 recordings cannot be read: .*x/000003"):
        Parquet().read(path)
    assert len(Parquet(skip_corrupt=True).read(path).unreadable) == 1


def test_paths_without_bytes_are_named_as_such(tmp_path):
    pa = needs_pyarrow()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    files = pa.array([{"bytes": None, "path": f"{n}.png"} for n in range(24)], kind)
    path = save(tmp_path / "x.parquet", table({"image": files, "label": Y}))
    with pytest.raises(DataError, match="no row of the column 'image' has the bytes") as caught:
        open_dataset(path)
    assert "embed_table_storage" in caught.value.fix


def test_classes_of_a_larger_set_that_have_no_sample_are_left_out_with_a_note(tmp_path):
    path = write(tmp_path / "x.parquet", X, np.where(Y, 3, 1), ["ant", "bee", "cat", "dog", "eel"])
    samples = Parquet().read(path)
    assert samples.class_names == ("bee", "dog")
    rows = [int(name.rpartition("/")[2][:6]) for name in samples.ids]
    assert samples.labels.tolist() == Y[rows].tolist()
    note = "3 of 5 classes in the list of names have no sample and are left out: ant, cat, eel"
    assert note in samples.notes


def test_a_picture_in_very_many_rows_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    """Its dictionary holds it once; copied a row each, 1 MB in two million rows are 2 TB."""
    needs_pyarrow()
    picture = png(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    path = save(tmp_path / "x.parquet", table({"image": [picture] * 900, "label": [0, 1] * 450}))
    assert len(Parquet().read(path)) == 900
    monkeypatch.setattr(parquet, "_COPIED_FROM", 1 << 20)
    with pytest.raises(DataError, match="200 times the size of the table"):
        Parquet().read(path)
