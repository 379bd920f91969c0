"""Several processes find in pictures what one process finds."""

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data import decode_pool, picture_check
from lepton_automl.data.decode_pool import ReadOptions
from lepton_automl.data.picture_check import CheckedPicture
from lepton_automl.errors import DataError
from tests.helpers.pictures import random_pictures


@pytest.fixture(autouse=True)
def _many(monkeypatch):
    monkeypatch.setattr(decode_pool, "MANY", 8)
    monkeypatch.setattr(decode_pool, "_CHUNK", 3)


@pytest.fixture
def files(tmp_path):
    made = []
    for n, pixels in enumerate(random_pictures(8, (20, 30, 3))):
        made.append(tmp_path / f"{n}.{'jpg' if n % 2 else 'png'}")
        Image.fromarray(pixels).save(made[-1])
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 50
    for name, image in (("grey", Image.new("L", (9, 8), 3)), ("deep", Image.fromarray(deep))):
        made.append(tmp_path / f"{name} \udcff.png")
        image.save(made[-1])
    made.append(tmp_path / "bad.png")
    made[-1].write_bytes(b"no picture")
    return made


def plain(result):
    """A result as values that can be compared."""
    if isinstance(result, DataError):
        return result.what
    return result.info, result.digest, result.thumb.tolist()


def test_processes_find_what_this_one_finds_and_count_what_is_done(files):
    told, seen = [], []
    alone = [plain(picture_check.check_one(path)) for path in files]
    made = decode_pool.check(files, ReadOptions(2, emit=told.append), lambda n, r: seen.extend(n))
    assert [plain(result) for result in made] == alone
    assert sorted(seen) == list(range(len(files)))
    assert any("cannot be read" in what for what in alone if isinstance(what, str))


def test_a_picture_beyond_the_share_of_a_process_is_read_by_this_one(files, monkeypatch):
    large = files[0].with_name("large.png")
    Image.new("RGB", (1000, 1000), (9, 8, 7)).save(large)  # 12 bytes a pixel, above 4 MiB
    here, check_one = [], picture_check.check_one
    monkeypatch.setattr(
        picture_check, "check_one", lambda path: (here.append(path), check_one(path))[1]
    )
    made = decode_pool.check([*files, large], ReadOptions(2, 10 << 20), lambda n, r: None)
    assert here == [large]
    assert made[-1].info.size == (1000, 1000)


def test_a_picture_that_ends_the_process_is_told_and_the_others_are_read(files, monkeypatch):
    program = decode_pool._PROGRAM.replace(
        "; main()",
        "; import os; from lepton_automl.data import picture_check; one = picture_check.check_one; "
        "picture_check.check_one = lambda p: os._exit(9) if p.name == '4.png' else one(p); main()",
    )
    monkeypatch.setattr(decode_pool, "_PROGRAM", program)
    made = decode_pool.check(files, ReadOptions(2), lambda n, r: None)
    told = [result.what for result in made[:-1] if isinstance(result, DataError)]
    assert told == [f"{files[4]} cannot be read: the process that reads it ends"]
    assert sum(isinstance(result, CheckedPicture) for result in made) == len(files) - 2


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole[:-1],
        lambda whole: whole.replace(b'"is_grey":[', b'"is_grey":["x",', 1),
        lambda whole: whole.replace(b'"low"', b'"lower"'),
        lambda whole: b"[]" + whole,
        lambda whole: b"{}\n",
    ],
)
def test_packed_results_that_are_damaged_are_refused(files, change):
    results = [picture_check.check_one(path) for path in files]
    whole = picture_check.pack(results)
    assert [plain(each) for each in picture_check.unpack(whole, len(files))] == list(
        map(plain, results)
    )
    with pytest.raises((ValueError, TypeError, KeyError)):
        picture_check.unpack(change(whole), len(files))
