from __future__ import annotations

import copy
import io
import stat
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures.decode import decode
from lepton_automl.data.sources.audio_folder import AudioFolder
from lepton_automl.data.sources.zip import Zip
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import random_pictures, write_folder
from tests.helpers.sounds import tone
from tests.helpers.sounds import write as write_wav


def pack(folder, path, *, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return str(path)


def example(folder):
    return pack(write_folder(folder / "photos", {"a": 2, "b": 2}), folder / "photos.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_the_files_of_the_folder(tmp_path, method):
    counts = {f"{part}/{c}": 4 for part in ("train", "val", "test") for c in "ab"}
    folder = write_folder(tmp_path / "photos", counts)
    path = pack(folder, tmp_path / "p.zip", method=method)
    one, other = open_dataset(path), open_dataset(folder)
    assert one.fingerprint == other.fingerprint
    assert [part.ids for part in one.parts] == [part.ids for part in other.parts]
    np.testing.assert_array_equal(one.pixels("test", (5, 6)), other.pixels("test", (5, 6)))
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "p.zip"}


def test_a_folder_around_all_and_what_a_mac_leaves_behind_are_passed_over(tmp_path):
    write_folder(tmp_path / "top" / "photos", {"a": 2, "b": 2})
    (tmp_path / "top" / "__MACOSX" / "photos" / "a").mkdir(parents=True)
    (tmp_path / "top" / "__MACOSX" / "photos" / "a" / "._000.png").write_bytes(b"x")
    (tmp_path / "top" / "readme.txt").write_text("x")
    samples = Zip().read(pack(tmp_path / "top", tmp_path / "p.zip"))
    assert samples.class_names == ("a", "b")
    assert len(samples) == 4


@pytest.mark.parametrize("is_divided", [True, False])
def test_recordings_of_sound_are_read_as_the_files_of_the_folder(tmp_path, is_divided):
    for n in range(12):
        part = ("train", "val", "test")[n // 2 % 3] if is_divided else ""
        path = tmp_path / "wav" / part / ("high", "low")[n % 2] / f"{n:03}.wav"
        write_wav(path, tone((900, 300)[n % 2], 0.4 + 0.1 * (n % 3), seed=n))
    for n in range(3):
        noise = tmp_path / "wav" / ("train" if is_divided else "") / "_background_noise_"
        write_wav(noise / f"{n}.wav", tone(50, 1.1, seed=n))
    path = pack(tmp_path / "wav", tmp_path / "s.zip")
    how = {"window": 2400, "stride": 1200}
    one, other = Zip(**how).read(path), AudioFolder(**how).read(str(tmp_path / "wav"))
    np.testing.assert_array_equal(one.sound, other.sound)
    assert one.ids == other.ids
    assert one.class_names == other.class_names == ("background", "high", "low")
    for name in ("labels", "groups", "recordings"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.parts is None) == (other.parts is None) == (not is_divided)
    if is_divided:
        np.testing.assert_array_equal(one.parts, other.parts)


def test_a_folder_around_recordings_is_passed_and_loose_ones_are_refused(tmp_path):
    for n in range(4):
        write_wav(tmp_path / "top" / "sounds" / "ab"[n % 2] / f"{n}.wav", tone(500, 0.3, seed=n))
    path = pack(tmp_path / "top", tmp_path / "s.zip")
    assert Zip().read(path).class_names == ("a", "b")
    with pytest.raises(ConfigError, match="--parts train=a,test=b has no effect"):
        open_dataset(path, part_names="train=a,test=b")
    loose = pack(tmp_path / "top" / "sounds" / "a", tmp_path / "loose.zip")
    with pytest.raises(DataError, match="no folders with recordings of sound"):
        Zip().read(loose)


def test_options_of_sound_have_no_effect_on_pictures(tmp_path):
    with pytest.raises(ConfigError, match="--rate 8000 has no effect: the data are pictures"):
        open_dataset(example(tmp_path), rate=8000)


def picture():
    stream = io.BytesIO()
    Image.fromarray(random_pictures(1, (9, 7, 3))[0]).save(stream, "PNG")
    return stream.getvalue()


def write(path, name, content=b"", change=lambda entry: None):
    with zipfile.ZipFile(path, "w") as archive:
        for other in ("a/1.png", "b/1.png"):
            archive.writestr(other, picture())
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        change(entry)
        archive.writestr(entry, content)
    return str(path)


def as_link(entry):
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def as_lzma(entry):
    entry.compress_type = zipfile.ZIP_LZMA


@pytest.mark.parametrize(
    ("name", "content", "change", "message"),
    [
        ("../a/2.png", b"", None, "leads out"),
        ("a/../../2.png", b"", None, "leads out"),
        ("/a/2.png", b"", None, "leads out"),
        ("a/2.png", b"/etc/passwd", as_link, "is a link"),
        ("a/2.png", b"x", as_lzma, "method 14"),
        ("a/2.png", bytes(8 << 20), None, "at most 200 times"),
    ],
)
def test_members_that_are_not_safe_are_refused(tmp_path, name, content, change, message):
    path = write(tmp_path / "p.zip", name, content, change or (lambda entry: None))
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path)
    assert "p.zip" in caught.value.what


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds a/1\.png twice"):
        Zip().read(write(tmp_path / "p.zip", "a/1.png", picture()))


def damaged(path, place, new):
    content = bytearray(path.read_bytes())
    content[place : place + len(new)] = new
    path.write_bytes(content)


def test_what_an_entry_claims_is_checked_when_it_is_read(tmp_path):
    path = tmp_path / "p.zip"
    write(path, "b/2.png", picture())
    (member, *_) = Zip().read(str(path)).pictures
    assert decode(member, 3).shape == (9, 7, 3)
    start = path.read_bytes().index(b"a/1.png") + len("a/1.png")
    damaged(path, start + 50, b"\0\0\0\0")
    with pytest.raises(DataError, match=r"p\.zip/a/1\.png cannot be read: its checksum"):
        decode(member, 3)
    damaged(path, 0, b"XX")
    with pytest.raises(DataError, match="header is damaged"):
        decode(member, 3)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"p\.zip/a/1\.png cannot be read"):
        decode(member, 3)


def test_a_size_that_is_too_small_for_the_content_is_no_flood(tmp_path):
    path = tmp_path / "p.zip"
    write(path, "b/2.png", bytes(100_000))
    entry = path.read_bytes().rindex(b"PK\x01\x02")
    damaged(path, entry + 24, struct.pack("<I", 1000))
    picture = Zip().read(str(path)).pictures[-1]
    with pytest.raises(DataError, match="claims 1000 bytes, 1001 are there"):
        decode(picture, 3)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "p.zip").write_bytes(content)
    with pytest.raises(DataError, match="not a readable zip archive"):
        Zip().read(str(tmp_path / "p.zip"))


def test_a_packed_size_beyond_the_end_is_refused_before_it_is_allocated(tmp_path):
    path = tmp_path / "p.zip"
    pack(write_folder(tmp_path / "photos", {"a": 2, "b": 2}), path, method=zipfile.ZIP_STORED)
    body = bytearray(path.read_bytes())
    struct.pack_into("<I", body, body.rindex(b"PK\x01\x02") + 20, 0xFFFF_FFF0)
    path.write_bytes(bytes(body))
    with pytest.raises(DataError, match="reaches beyond the end of the archive"):
        Zip().read(str(path))


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """Else a picture of a second to decode is 300,000 of them in an archive of some megabytes."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a/0.png", "b/0.png"):
            archive.writestr(name, random_pictures(1, (8, 8)).tobytes())
        for n in range(1, 9):
            for first in archive.filelist[:2]:
                again = copy.copy(first)
                again.filename = f"{first.filename[0]}/{n}.png"
                archive.filelist.append(again)
    with pytest.raises(DataError, match="overlap"):
        Zip().read(str(tmp_path / "a.zip"))
