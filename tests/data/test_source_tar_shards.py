from __future__ import annotations

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.sources.audio_folder import AudioFolder
from lepton_automl.data.sources.tar_shards import TarShards
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import random_pictures
from tests.helpers.sounds import tone
from tests.helpers.sounds import write as write_wav

X = random_pictures(8, (9, 7, 3))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path, files, change=lambda entry: None):
    """A tar archive of names and contents; `change` alters the entry of the last one."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as archive:
        for place, (name, content) in enumerate(files.items(), start=1):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if place == len(files):
                change(entry)
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


def labelled(rows, label=lambda n: n % 2):
    files = {}
    for n in rows:
        files |= {f"{n:06}.png": png(X[n]), f"{n:06}.cls": str(label(n)).encode()}
    return files


def example(folder):
    return write(folder / "shards.tar", labelled(range(4)))


def test_members_of_one_key_are_a_sample(tmp_path):
    samples = TarShards().read(write(tmp_path / "a.tar", labelled(range(8))))
    assert samples.ids == tuple(f"{n:06}.png" for n in (0, 2, 4, 6, 1, 3, 5, 7))
    assert samples.labels.tolist() == [0] * 4 + [1] * 4
    assert samples.parts is None


def test_shards_are_parts_by_their_names_and_hold_the_pictures(tmp_path):
    for part, rows in (("train", range(4)), ("val", (4, 5)), ("test", (6, 7))):
        write(tmp_path / "set" / f"{part}-000000.tar", labelled(rows))
    dataset = open_dataset(tmp_path / "set")
    assert [len(part) for part in dataset.parts] == [4, 2, 2]
    np.testing.assert_array_equal(dataset.pixels("test", (9, 7)), X[6:])
    assert {d.name for d in dataset.decisions} >= {"parts", "columns"}


def test_fields_of_json_are_label_and_attributes(tmp_path):
    files = {}
    for n in range(4):
        document = {"label": "ab"[n % 2], "site": f"s{n}", "year": 2020 + n, "flag": None}
        files |= {f"x/{n}.png": png(X[n]), f"x/{n}.json": json.dumps(document).encode()}
    samples = TarShards().read(write(tmp_path / "a.tar", files))
    assert samples.class_names == ("a", "b")
    assert samples.attributes["site"] == ("s0", "s2", "s1", "s3")
    assert samples.attributes["year"] == ("2020", "2022", "2021", "2023")


def test_a_label_may_have_a_name_before_its_suffix(tmp_path):
    files = {}
    for n in range(4):
        files |= {f"{n}.input.png": png(X[n]), f"{n}.target.cls": b"ab"[n % 2 : n % 2 + 1]}
    samples = TarShards().read(write(tmp_path / "a.tar", files))
    assert [samples.class_names[label] for label in samples.labels] == ["a", "a", "b", "b"]
    assert samples.ids == ("0.input.png", "2.input.png", "1.input.png", "3.input.png")


def test_two_labels_of_a_sample_are_not_chosen_between(tmp_path):
    files = {"0.png": png(X[0]), "0.a.cls": b"1", "0.b.cls": b"2"}
    with pytest.raises(DataError, match=r"no sample has a label; .* \.a\.cls, \.b\.cls, \.png"):
        TarShards().read(write(tmp_path / "a.tar", files))


def test_recordings_of_sound_are_read_as_a_folder_of_them(tmp_path):
    files = {}
    for n in range(8):
        label = ("high", "low")[n % 2]
        path = tmp_path / "wav" / label / f"{n:03}.wav"
        write_wav(path, tone((900, 300)[n % 2], 0.4 + 0.1 * (n % 3), seed=n))
        document = {"label": label, "speaker": "abc"[n // 3]}
        files |= {f"{n:03}.wav": path.read_bytes(), f"{n:03}.json": json.dumps(document).encode()}
    how = {"window": 2400, "stride": 1200}
    one = TarShards(**how).read(write(tmp_path / "a.tar", files))
    other = AudioFolder(**how).read(str(tmp_path / "wav"))
    np.testing.assert_array_equal(one.sound, other.sound)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.recordings, other.recordings)
    assert one.class_names == other.class_names
    assert len(set(one.groups.tolist())) == 3
    dataset = open_dataset(tmp_path / "a.tar", rate=4000, mels=20, band_mean="subtract")
    assert dataset.front_end.rate == 4000
    assert dataset.size[1] == 20


def test_options_of_sound_have_no_effect_on_pictures(tmp_path):
    with pytest.raises(ConfigError, match="--rate 8000 has no effect: the data are pictures"):
        open_dataset(example(tmp_path), rate=8000)


def way_out(path):
    with pytest.raises(DataError) as caught:
        TarShards().read(path)
    return caught.value.fix


def test_what_archives_hold_instead_has_a_way_out(tmp_path):
    pickled = {"0.png": png(X[0]), "0.cls.pyd": b"x"}
    assert "can run code" in way_out(write(tmp_path / "pickled.tar", pickled))
    folders = {f"{name}/{n}.png": png(X[n]) for n, name in enumerate("ab")}
    assert "unpack it with `tar -xf`" in way_out(write(tmp_path / "folders.tar", folders))
    both = {"0.wav": b"RIFF", "0.cls": b"1"} | labelled([1])
    assert "one kind" in way_out(write(tmp_path / "both.tar", both))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x" * 600))
    assert "unpack it with `tar -xf`" in way_out(str(tmp_path / "a.tar.gz"))


def as_kind(kind):
    def change(entry):
        entry.type, entry.linkname = kind, "/etc/passwd"

    return change


def negative(entry):
    entry.size = -512


GOOD = labelled(range(2))


@pytest.mark.parametrize(
    ("files", "change", "message"),
    [
        (GOOD | {"../3.png": b""}, None, "leads out"),
        (GOOD | {"/3.png": b""}, None, "leads out"),
        (GOOD | {"3.png": b""}, as_kind(tarfile.SYMTYPE), "not a regular file"),
        (GOOD | {"3.png": b""}, as_kind(tarfile.LNKTYPE), "not a regular file"),
        (GOOD | {"3.png": b""}, as_kind(tarfile.CHRTYPE), "not a regular file"),
        (GOOD | {"3.cls": b"1"}, None, "the sample 3 has 0 pictures"),
        (GOOD | {"3.png": b"x"}, None, "1 of 3 rows have no label"),
        (GOOD | {"3.json": b"{", "3.png": b"x"}, None, "3.json"),
        (GOOD | {"000000.jpg": b"x"}, None, "has 2 pictures"),
        ({"readme": b"x"}, None, "holds no samples"),
    ],
)
def test_members_that_do_not_fit_are_refused(tmp_path, files, change, message):
    path = write(tmp_path / "a.tar", files, change or (lambda entry: None))
    with pytest.raises(DataError, match=message):
        TarShards().read(path)


def test_sizes_beyond_the_end_and_below_zero_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    write(path, GOOD)
    content = bytearray(path.read_bytes())
    for field, message in (
        (b"77777777777\0", "beyond the end|unexpected end"),
        (b"\xff" * 11 + b"\x00", "not a readable tar archive"),
    ):
        content[124:136] = field
        content[148:156] = b" " * 8
        content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            TarShards().read(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"x" * 512, "tar archive"), (b"\x1f\x8b" + bytes(600), "it is compressed")],
)
def test_what_is_no_plain_archive_is_refused(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        TarShards().read(str(tmp_path / "a.tar"))
