"""Format any_size: the file answers a picture of any size as it answers Pillow's resized one."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto
from PIL import Image

from lepton_automl.errors import ArchError, DataError
from lepton_automl.models import formats
from lepton_automl.models.formats import Golden, Words
from lepton_automl.models.formats.any_size import AnySize, with_resizing, without_resizing
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.random_weights import random_net
from tests.helpers.nets import random_arch

GOLDEN = Golden(np.zeros((0, 1, 1, 1), np.uint8), np.zeros((0, 1), np.float32))


def net_for(shape, classes=3):
    return random_net(random_arch(0, input=shape), 64, 0), [f"class {n}" for n in range(classes)]


def stored(folder, shape=(20, 12, 3), change=lambda model: None):
    """The artifact folder with the file of a random net, changed; the fixed file's content."""
    net, _ = net_for(shape)
    names = [f"class {n}" for n in range(net.arch.classes)]
    fixed = int8_onnx(net, names, {})
    model = ModelProto.FromString(AnySize().files(net, Words(tuple(names)), GOLDEN)[AnySize.main])
    change(model)
    (folder / AnySize.main).write_bytes(model.SerializeToString(deterministic=True))
    return fixed


def weights(source, target):
    """Of a bilinear resize of one side, antialiased: (target, source), float64."""
    scale = source / target
    centres, places = (np.arange(target) + 0.5) * scale, np.arange(source) + 0.5
    found = np.maximum(0, 1 - np.abs(places - centres[:, None]) / max(1.0, scale))
    return found / found.sum(axis=1, keepdims=True)


def resized(picture, size):
    """A picture (H, W, C) of another size, not rounded."""
    rows, columns = (weights(a, b) for a, b in zip(picture.shape, size, strict=False))
    return np.einsum("hy,yxc,wx->hwc", rows, picture.astype(float), columns)


def plane(picture, channel, shape):
    """A channel in the size that Pillow gives it."""
    image = Image.fromarray(picture[..., channel])
    return image.resize(shape[1::-1], Image.Resampling.BILINEAR)


def inner(content, name):
    """Tensor `name` of a file as an output of a session."""
    model = ModelProto.FromString(content)
    model.graph.output.add().name = name
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize("shape", [(20, 12, 3), (9, 33, 1)])
def test_pixels_in_the_graph_are_those_of_an_antialiased_bilinear_resize(tmp_path, shape):
    stored(tmp_path, shape)
    session = inner((tmp_path / AnySize.main).read_bytes(), "resized")
    generator = np.random.default_rng(1)
    for size in [(1, 1), (500, 3), (2, 400), (21, 12), (20, 12), (300, 200), (7, 8)]:
        picture = generator.integers(0, 256, (*size, shape[2]), np.uint8)
        (found,) = session.run(["resized"], {"pixels": picture[None]})
        exact = resized(picture, shape[:2])
        # Half a level for each side.
        assert np.abs(found[0] - exact).max() <= 1.001, size
        pillow = np.stack([np.asarray(plane(picture, n, shape)) for n in range(shape[2])], axis=2)
        assert np.abs(pillow - exact).max() <= 1.001, size


def test_a_picture_of_the_size_of_the_net_gets_the_answer_of_the_fixed_file_bit_for_bit(tmp_path):
    fixed = stored(tmp_path)
    samples = np.random.default_rng(2).integers(0, 256, (5, 20, 12, 3), np.uint8)
    (expected,) = onnxruntime.InferenceSession(fixed).run(None, {"pixels": samples})
    assert np.array_equal(AnySize().session(tmp_path).predict(samples), expected)


def test_the_fixed_file_is_found_again(tmp_path):
    fixed = stored(tmp_path)
    content = (tmp_path / AnySize.main).read_bytes()
    assert content == with_resizing(fixed)
    assert without_resizing(tmp_path / AnySize.main, content) == fixed


def attribute(model, name):
    return next(each for each in model.graph.node[0].attribute if each.name == name)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(attribute(m, "antialias"), "i", 0),
        lambda m: setattr(attribute(m, "exclude_outside"), "i", 0),
        lambda m: setattr(attribute(m, "mode"), "s", b"nearest"),
        lambda m: m.graph.node.pop(0),
        lambda m: setattr(m.graph.initializer[-1], "name", "other"),
        lambda m: m.graph.initializer[-1].ClearField("raw_data"),
        lambda m: m.graph.ClearField("input"),
    ],
)
def test_another_resizing_is_refused(tmp_path, change):
    stored(tmp_path, change=change)
    with pytest.raises(DataError):
        AnySize().session(tmp_path)


def test_a_runtime_that_resizes_otherwise_is_refused(tmp_path, monkeypatch):
    stored(tmp_path)
    bicubic = Image.Resampling.BICUBIC
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: resize(self, size, bicubic))
    with pytest.raises(DataError, match="otherwise than Pillow"):
        AnySize().session(tmp_path)


def test_nets_that_read_no_8_bit_pictures_are_refused():
    net, _ = net_for((37, 6))
    with pytest.raises(ArchError, match="no pictures"):
        AnySize().files(net, Words(tuple("abc")), GOLDEN)


def test_it_is_a_format_by_its_name():
    assert formats.load("any_size").takes_any_size
    assert not formats.load("onnx").takes_any_size
