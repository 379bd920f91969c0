from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import ModelProto, helper

from lepton_automl.compress.external.preprocessing import (
    Preprocessing,
    find_preprocessing,
    labels_in,
)
from lepton_automl.compress.external.reader import Signature
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
    wanted = Preprocessing(1 / 255, (0.1, 0.2, 0.3), (0.5,) * 3, "BGR", str(path))
    assert known(tmp_path, path) == wanted
    path = tmp_path / "a.json"
    path.write_text('{"scale": 1, "mean": 127.5, "std": 127.5}')
    assert known(tmp_path, path, GREY) == Preprocessing(1.0, (127.5,), (127.5,), "grey", str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mean = [0.1, 0.2]", "one number or 3"),
        ("std = 0", "above 0"),
        ("std = [1, 1, 'x']", "one number or 3"),
        ("scale = -1", "above 0"),
        ("scale = true", "above 0"),
        ("order = 'grey'", "3 channels"),
        ("size = 3", "size is unknown"),
        ("mean = nan", "one number or 3"),
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
