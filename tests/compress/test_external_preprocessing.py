from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from lepton_automl.compress.external.class_order import labels_in
from lepton_automl.compress.external.find_preprocessing import find_preprocessing, stated_size
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.compress.external.reader import Signature
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.errors import ConfigError, DataError

COLOUR = Signature("x", "y", "NCHW", 8, 8, 3, 5, is_bytes=False, opset=17)
GREY = Signature("x", "y", "NCHW", 8, 8, 1, 5, is_bytes=False, opset=17)
BYTES = Signature("x", "y", "NHWC", 8, 8, 3, 5, is_bytes=True, opset=17)


def known(folder: Path, given: Path | None = None, seen: Signature = COLOUR, **words: str):
    made = ModelProto()
    helper.set_model_props(made, words)
    return find_preprocessing(folder / "model.onnx", made, seen, given)


def test_a_file_says_it_and_what_it_leaves_out_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('mean = [0.1, 0.2, 0.3]\nstd = 0.5\norder = "BGR"\n')
    wanted = ExternalPreprocessing(
        1 / 255, (0.1, 0.2, 0.3), (0.5,) * 3, "BGR", str(path), is_option=True
    )
    assert known(tmp_path, path) == wanted
    path = tmp_path / "a.json"
    path.write_text('{"scale": 1, "mean": 127.5, "std": 127.5}')
    assert known(tmp_path, path, GREY) == ExternalPreprocessing(
        1.0, (127.5,), (127.5,), "grey", str(path), is_option=True
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mean = [0.1, 0.2]", "one number or 3"),
        ("std = 0", "above 0"),
        ("std = [1, 1, 'x']", "one number or 3"),
        ("scale = -1", "above 0"),
        ("scale = true", "above 0"),
        ("order = 'grey'", "3 channels"),
        ("sizes = 3", "sizes is unknown"),
        ("mean = nan", "not finite"),
        ("no toml", "TOML or JSON"),
    ],
)
def test_what_the_file_says_is_checked(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        known(tmp_path, path)
    assert says in str(caught.value)


def test_it_is_found_in_the_file_itself(tmp_path: Path) -> None:
    found = known(tmp_path, mean="[0.5, 0.5, 0.5]", std="[0.25, 0.25, 0.25]")
    assert found is not None
    assert (found.scale, found.mean, found.std) == (1 / 255, (0.5,) * 3, (0.25,) * 3)
    found = known(tmp_path, task="classify", names="{0: 'a', 1: 'b'}")
    assert found is not None
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}),
        ("config.json", {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}),
        ("config.json", {"mean": [0.5] * 3, "std": [0.25] * 3}),
        ("preprocessing.json", {"mean": 0.5, "std": 0.25}),
    ],
)
def test_it_is_found_beside_the_file(tmp_path: Path, name: str, body: dict) -> None:
    (tmp_path / name).write_text(json.dumps(body))
    found = known(tmp_path)
    assert found is not None
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)
    assert name in found.source


def test_where_nothing_tells_the_model_is_refused_with_what_to_state(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        known(tmp_path)
    assert "std = [" in caught.value.fix
    assert "--preprocessing" in caught.value.fix


def test_a_model_that_takes_bytes_needs_nothing_and_lets_nobody_say_otherwise(
    tmp_path: Path,
) -> None:
    assert known(tmp_path, seen=BYTES) is None
    with pytest.raises(ConfigError, match="has no effect"):
        known(tmp_path, tmp_path / "a.toml", BYTES)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({"labels": '["b", "a"]'}, ("b", "a")),
        ({"names": "{0: 'cat', 1: 'dog'}"}, ("cat", "dog")),
        ({"names": "{0: 'cat', 5: 'dog'}"}, None),
        ({"names": "__import__('os').system('false')"}, None),
        ({"labels": "[1, 2]"}, None),
        ({}, None),
    ],
)
def test_names_of_classes_are_read_and_never_run(words: dict, names: tuple | None) -> None:
    made = ModelProto()
    helper.set_model_props(made, words)
    assert labels_in(made) == names


MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.25, 0.2]
HF = {"image_processor_type": "ViTImageProcessor", "image_mean": MEAN, "image_std": STD}


def by_formula(known: ExternalPreprocessing, pixels: np.ndarray) -> np.ndarray:
    """What (n, 3) RGB pixels become."""
    x = pixels[:, ::-1] if known.order == "BGR" else pixels
    return (x * known.scale - np.array(known.mean)) / np.array(known.std)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, lambda p: (p / 255 - MEAN) / STD),
        ({"do_normalize": False}, lambda p: p / 255),
        ({"do_rescale": False}, lambda p: (p - MEAN) / STD),
        ({"do_rescale": False, "do_normalize": False}, lambda p: p),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, lambda p: p / 127.5),
        (
            {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
            lambda p: p / 127.5 - 1,
        ),
        ({"include_top": True}, lambda p: (p / 255 - MEAN) / STD / STD),
        ({"do_flip_channel_order": True}, lambda p: (p[:, ::-1] / 255 - MEAN) / STD),
        ({"do_convert_rgb": True, "do_pad": False}, lambda p: (p / 255 - MEAN) / STD),
    ],
)
def test_the_switches_of_hugging_face_count(tmp_path: Path, fields: dict, wanted) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HF | fields))
    found = known(tmp_path)
    assert found is not None
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3)).astype(float)
    assert np.allclose(by_formula(found, pixels), wanted(pixels))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"size": 8}, None),
        ({"size": {"height": 8, "width": 8}}, None),
        ({"size": {"shortest_edge": 8}}, Framing("shortest", (8, 8), rounds_down=True)),
        (
            {"size": {"shortest_edge": 10}, "crop_size": 8, "do_center_crop": True, "resample": 3},
            Framing("shortest", (10, 10), "bicubic", rounds_down=True),
        ),
        (
            {"size": 10, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True},
            Framing("stretch", (10, 10), rounds_down=True),
        ),
        (
            {"size": 8, "crop_pct": 0.8, "image_processor_type": "ConvNextImageProcessor"},
            Framing("shortest", (10, 10), rounds_down=True),
        ),
        # The file was exported at another size than the configuration's 224 of 256.
        (
            {"size": 256, "crop_size": 224, "do_center_crop": True},
            Framing("stretch", (9, 9), rounds_down=True),
        ),
        ({"size": 8, "do_resize": False, "resample": 3}, None),
    ],
)
def test_the_resizing_of_hugging_face_counts(tmp_path: Path, fields: dict, wanted) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HF | fields))
    found = known(tmp_path)
    assert found is not None
    assert found.framing == wanted


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, Framing("shortest", (8, 8))),
        ({"crop_pct": 0.8}, Framing("shortest", (10, 10), "bicubic")),
        (
            {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "nearest"},
            Framing("stretch", (10, 10), "nearest"),
        ),
        (
            {"crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear"},
            Framing("longest", (8, 8), fill=(26, 51, 76)),
        ),
        (
            {"crop_pct": 0.5, "test_input_size": [3, 8, 8], "test_crop_pct": 1.0},
            Framing("shortest", (8, 8), "bicubic"),
        ),
    ],
)
def test_the_resizing_of_timm_counts(tmp_path: Path, fields: dict, wanted: Framing) -> None:
    cfg = {"mean": MEAN, "std": STD, "input_size": [3, 6, 6]} | fields
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
    found = known(tmp_path)
    assert found is not None
    assert found.framing == wanted


@pytest.mark.parametrize(
    "fields",
    [{"do_gamma": True}, {"do_pad": True}, {"pad_value": 3}, {"size": {"longest_edge": 8}}],
)
def test_a_field_that_changes_pixels_and_is_unknown_is_named(tmp_path: Path, fields: dict) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HF | fields))
    with pytest.raises(ConfigError, match=next(iter(fields))) as caught:
        known(tmp_path)
    assert "--preprocessing" in caught.value.fix


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HF))
    cfg = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
    with pytest.raises(ConfigError, match="different preprocessing"):
        known(tmp_path)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("config.json", {"pretrained_cfg": {"mean": 0, "std": 1, "input_size": [3, 32, 24]}}),
        ("preprocessor_config.json", HF | {"size": {"height": 32, "width": 24}}),
        ("preprocessor_config.json", HF | {"size": 40, "crop_size": [32, 24]}),
        ("preprocessing.json", {"mean": 0, "size": [32, 24]}),
    ],
)
def test_the_size_is_read_for_models_whose_own_is_free(tmp_path: Path, name, body) -> None:
    (tmp_path / name).write_text(json.dumps(body))
    assert stated_size(tmp_path / "model.onnx", None) == (32, 24)
    assert stated_size(tmp_path / "model.onnx", tmp_path / name) == (32, 24)


def test_the_folder_above_onnx_counts_as_beside(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HF))
    (tmp_path / "onnx").mkdir()
    assert known(tmp_path / "onnx") == known(tmp_path)
