"""A picture has the same pixels in training, calibration, verification, prediction and the example.

Training, compression (with calibration) and evaluation map the files of `Dataset.decoded_files`,
verification those of `Dataset.file_input_files`; the graph takes the pixels as they are.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton_automl.artifact import predict
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.tensors import load_labelled
from tests.helpers.artifacts import make_bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify.py"
HEIGHT, WIDTH = 12, 10
TURN_RIGHT = 6
"""EXIF orientation: the picture is stored turned left."""


def pictures(folder: Path, rng: np.random.Generator) -> dict[Path, np.ndarray]:
    """Files of every kind, with the pixels (12, 10, 3) that each has by the rules of its kind."""
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    grey = rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    deep = rng.integers(0, 1 << 16, (HEIGHT, WIDTH), np.uint16)
    bits = rng.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    inks = rng.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    colours = rng.integers(0, 256, (4, 3), np.uint8)
    numbers = rng.integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = TURN_RIGHT
    palette = Image.fromarray(numbers, "P")
    palette.putpalette(colours.tobytes())
    made: dict[Path, np.ndarray] = {}

    def add(name: str, picture: Image.Image, pixels: np.ndarray, **options: object) -> None:
        picture.save(folder / name, **options)
        made[folder / name] = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)

    add("plain.png", Image.fromarray(rgb), rgb)
    add("turned.png", Image.fromarray(np.ascontiguousarray(np.rot90(rgb))), rgb, exif=exif)
    add("grey.png", Image.fromarray(grey), grey)
    add("deep.png", Image.fromarray(deep), np.round(deep / 257).astype(np.uint8))
    add("bits.png", Image.fromarray(bits), bits * np.uint8(255))
    ink = inks.astype(float)
    mixed = np.round((255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).astype(np.uint8)
    add("inks.tif", Image.fromarray(inks, "CMYK"), mixed)
    clear = np.where((numbers == 2)[..., None], np.uint8(255), colours[numbers])  # Over white.
    add("clear.gif", palette, clear, transparency=2)
    frames = [Image.fromarray(np.full_like(grey, level)) for level in (30, 200)]
    add("moving.gif", frames[0], np.full_like(grey, 30), save_all=True, append_images=frames[1:])
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a data set, and what each file of one class has to be."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    expected = {}
    for part in ("train", "val", "test"):
        for name in ("odd", "even"):
            (root / part / name).mkdir(parents=True)
            expected[part, name] = pictures(root / part / name, rng)
    return root, expected["train", "odd"]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("classify", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (7, 16)])
def test_a_picture_has_the_same_pixels_everywhere(made, example, tmp_path, monkeypatch, size):
    root, expected = made
    dataset = open_dataset(str(root))
    trained = load_labelled(dataset.decoded_files("train", size, tmp_path)).pixels.numpy()
    verified = load_labelled(dataset.file_input_files("train", size, tmp_path)).pixels.numpy()
    (tmp_path / "made").mkdir()
    model = make_bundle(tmp_path / "made").folder / "model.int8.onnx"
    seen: list[np.ndarray] = []
    decode = predict.decode.decode

    def decoded(path, channels, own_size, *more):
        seen.append(decode(path, 3, size, *more))  # As for a net of this size, in colour.
        return decode(path, channels, own_size, *more)

    monkeypatch.setattr(predict.decode, "decode", decoded)
    for path, pixels in expected.items():
        place = dataset.train.ids.index(path.relative_to(root).as_posix())
        assert np.array_equal(trained[place], verified[place]), path.name
        assert np.array_equal(example.pixels_of(str(path), *size, 3)[0], trained[place]), path.name
        predict.predict(model, [path])
        assert np.array_equal(seen.pop(), trained[place]), path.name
        if size == (HEIGHT, WIDTH):
            assert np.abs(trained[place].astype(int) - pixels).max() <= (path.suffix == ".tif")
