from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.framing import Framing, framing_in


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("framing", "steps"),
    [
        # Resize(10), CenterCrop((8, 6)) of torchvision: the longer side is int(10 * 31 / 20) = 15.
        (
            Framing("shortest", (10, 10), "bicubic"),
            lambda image: image.resize((15, 10), Image.Resampling.BICUBIC).crop((4, 1, 10, 9)),
        ),
        (
            Framing("stretch", (12, 11)),
            lambda image: image.resize((11, 12), Image.Resampling.BILINEAR).crop((2, 2, 8, 10)),
        ),
        (
            Framing("shortest", (13, 13), "nearest", rounds_down=True),
            lambda image: image.resize((20, 13), Image.Resampling.NEAREST).crop((7, 2, 13, 10)),
        ),
    ],
)
def test_a_picture_is_resized_and_cut_as_stated(framing: Framing, steps) -> None:
    image = picture(20, 31)
    assert np.array_equal(framing.apply(image, (8, 6)), steps(image))


def test_a_picture_that_fits_into_the_size_is_padded() -> None:
    made = np.asarray(Framing("longest", (8, 8), fill=(1, 2, 3)).apply(picture(10, 20), (8, 8)))
    assert (made[[0, 1, 6, 7]] == (1, 2, 3)).all()
    inside = picture(10, 20).resize((8, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(made[2:6], inside)


def test_a_very_long_picture_is_cut_before_it_grows() -> None:
    assert Framing("shortest", (64, 64)).apply(picture(1, 5000), (64, 64)).size == (64, 64)


def test_files_and_arrays_are_framed_alike(tmp_path: Path) -> None:
    image, framing = picture(9, 14), Framing("shortest", (9, 9))
    image.save(tmp_path / "a.png")
    by_file = decode.decode(tmp_path / "a.png", 3, (7, 7), framing=framing)
    assert np.array_equal(by_file, decode.decode(np.asarray(image), 3, (7, 7), framing=framing))
    square = np.asarray(image.resize((7, 7)))
    assert not np.array_equal(decode.decode(square, 3, (7, 7), framing=framing), square)


def test_it_is_stored_in_metadata_and_read_again() -> None:
    framing = Framing("longest", (8, 6), "bicubic", (1, 2, 3), rounds_down=True)
    assert framing_in({"framing": framing.to_json()}) == framing
    assert framing_in({}) is None
    with pytest.raises(ValueError, match="mode"):
        framing_in({"framing": '{"mode": "evil"}'})


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [8, 8.5]},
        {"size": ["8", "8"]},
        {"size": [8, 0]},
        {"size": [8]},
        {"size": True},
        {"fill": [0, 0, 300]},
        {"fill": [1e308, 0, 0]},
        {"fill": [0, 0]},
        {"fill": None},
    ],
)
def test_what_does_not_say_how_pictures_are_resized_is_refused(changes) -> None:
    body = json.loads(Framing("shortest", (9, 9)).to_json())
    assert Framing.from_json(json.dumps(body)) == Framing("shortest", (9, 9))
    with pytest.raises((ValueError, TypeError)):
        Framing.from_json(json.dumps(body | changes))
