from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.audit.full_audit import full_audit, make_thumbnails
from lepton_automl.data.opening import open_dataset
from tests.helpers.pictures import random_pictures, write_folder, write_npz


def found(dataset):
    return {finding.kind: finding for finding in full_audit(dataset, make_thumbnails(dataset))}


def ids(dataset, finding):
    return [{dataset.part(part).ids[n] for part, n in group} for group in finding.samples]


@pytest.fixture
def smooth():
    """uint8 (n, 32, 32, 3): no two alike, with structure that survives a resize."""

    def make(count, seed=0):
        small = random_pictures(count, (6, 6, 3), seed)
        return np.stack(
            [np.asarray(Image.fromarray(each).resize((32, 32), Image.BICUBIC)) for each in small]
        )

    return make


def test_every_unreadable_file_is_named_with_its_reason(tmp_path):
    folder = write_folder(tmp_path / "d", {"a": 30, "b": 30})
    whole = (folder / "a" / "000.png").read_bytes()
    bad = {"000.png": b"", "001.png": whole[:60], "002.png": b"no picture", "003.png": whole[:-40]}
    for name, content in bad.items():
        (folder / "a" / name).write_bytes(content)
    dataset = open_dataset(folder, skip_corrupt=True)
    assert found(dataset)["unreadable files"].count == 4
    assert {file.id for file in dataset.unreadable} == {f"a/{name}" for name in bad}
    errors = {file.id: file.error for file in dataset.unreadable}
    assert "the file is empty" in errors["a/000.png"]
    assert "not a picture" in errors["a/002.png"]


def test_copies_within_a_part_are_named(tmp_path):
    folder = write_folder(tmp_path / "d", {"a": 30, "b": 30})
    (folder / "a" / "copy.png").write_bytes((folder / "a" / "003.png").read_bytes())
    dataset = open_dataset(folder)
    finding = found(dataset)["duplicates within a part"]
    assert finding.count == 1
    assert ids(dataset, finding) == [{"a/003.png", "a/copy.png"}]


def test_a_resized_copy_with_another_label_is_found(tmp_path, smooth):
    pictures = smooth(200)
    for n, pixels in enumerate(pictures):
        place = tmp_path / "d" / "ab"[n % 2] / f"{n:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    Image.fromarray(pictures[4]).resize((40, 40)).save(tmp_path / "d" / "b" / "x.jpg", quality=80)
    dataset = open_dataset(tmp_path / "d")
    finding = found(dataset)["near duplicates of another class"]
    assert ids(dataset, finding) == [{"a/004.png", "b/x.jpg"}]


def test_a_shape_that_tells_the_class_is_found_and_one_that_does_not_is_not(tmp_path):
    def kinds(name, wide):
        for n, pixels in enumerate(random_pictures(160, (12, 9, 3))):
            label = "ab"[n % 2]
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            turned = pixels.swapaxes(0, 1) if wide(n) else pixels
            Image.fromarray(turned).save(tmp_path / name / label / f"{n:03}.png")
        return found(open_dataset(tmp_path / name))

    told = kinds("told", lambda n: n % 2 == 0)["property carries the label"]
    assert "balanced accuracy of 100.0 %, by guessing 50.0 %" in told.message
    assert "property carries the label" not in kinds("chance", lambda n: n % 4 < 2)


def test_an_exif_orientation_that_tells_the_class_is_found(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    for n, pixels in enumerate(random_pictures(120, (9, 9, 3))):
        (tmp_path / "d" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        given = exif if n % 2 else Image.Exif()
        Image.fromarray(pixels).save(tmp_path / "d" / "ab"[n % 2] / f"{n:03}.jpg", exif=given)
    assert "EXIF orientation" in found(open_dataset(tmp_path / "d"))[
        "property carries the label"
    ].message  # fmt: skip


def test_channels_that_say_nothing_are_named(tmp_path):
    def kinds(change):
        x = random_pictures(240, (8, 8, 3))
        change(x)
        path = write_npz(tmp_path / "a.npz", x=x, y=np.arange(240) % 2)
        return found(open_dataset(path))

    assert kinds(lambda x: None) == {}

    def constant(x):
        x[..., 1] = 7

    def equal(x):
        x[:] = x[..., :1]

    assert "channels 1 (of 0 to 2)" in kinds(constant)["constant channels"].message
    assert set(kinds(equal)) == {"equal channels"}


def test_formats_are_counted(tmp_path):
    folder = write_folder(tmp_path / "d", {"a": 30, "b": 30})
    frames = [Image.fromarray(each) for each in random_pictures(3, (9, 7, 3), 9)]
    frames[0].save(folder / "a" / "moves.gif", save_all=True, append_images=frames[1:])
    alpha = Image.fromarray(random_pictures(1, (9, 7, 4), 8)[0])
    alpha.save(folder / "a" / "clear.png")
    deep = np.random.default_rng(0).integers(0, 65536, (7, 9), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "b" / "deep.png")
    dataset = open_dataset(folder)
    kinds, shapes = {}, {}
    for part in dataset.parts:
        kinds |= dict(zip(part.ids, part.formats.kinds.tolist(), strict=True))
        shapes |= dict(zip(part.ids, part.formats.shapes.tolist(), strict=True))
    assert kinds["a/moves.gif"] == "colour, several frames"
    assert kinds["a/clear.png"] == "colour, alpha"
    assert kinds["b/deep.png"] == "grey, 16 bit"
    assert kinds["a/000.png"] == "colour"
    assert (shapes["a/000.png"], shapes["b/deep.png"]) == ("portrait", "landscape")
