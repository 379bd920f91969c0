from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import ModelProto, helper

from lepton_automl.compress.external.class_order import (
    ClassOrder,
    find_class_order,
    natural_order,
)
from lepton_automl.errors import ConfigError, DataError

DATA = ("ant", "bee", "cow dung")


def order(
    folder: Path, given: str | None = None, names: tuple[str, ...] = DATA, **words: str
) -> ClassOrder:
    made = ModelProto()
    helper.set_model_props(made, words)
    return find_class_order(folder / "model.onnx", made, given, names, len(names))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "bee\ncow dung\nant\n"),
        ("labels.txt", "0 bee\n1 cow dung\n2 ant"),
        ("labels.txt", "2: ant\n0: bee\n\n1: cow dung\n"),
        ("labels.txt", "Bee\r\nCow_Dung\r\nAnt\r\n"),
        ("config.json", json.dumps({"id2label": {"1": "cow dung", "2": "ant", "0": "bee"}})),
        ("config.json", json.dumps({"label2id": {"cow dung": 1, "ant": 2, "bee": 0}})),
        ("config.json", json.dumps({"label_names": ["bee", "cow dung", "ant"]})),
        (
            "config.json",
            json.dumps({"pretrained_cfg": {"label_names": ["bee", "cow dung", "ant"]}}),
        ),
        ("class_indices.json", json.dumps({"cow dung": 1, "ant": 2, "bee": 0})),
    ],
)
def test_files_beside_a_model_name_its_classes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = order(tmp_path)
    assert found.names == ("bee", "cow dung", "ant")
    assert name in found.source
    given = order(tmp_path, str(tmp_path / name))
    assert (given.names, given.is_option) == (found.names, True)


def test_placeholders_are_no_names(tmp_path: Path) -> None:
    names = {str(n): f"LABEL_{n}" for n in range(3)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": names}))
    assert order(tmp_path) == ClassOrder(DATA)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"labels.txt": "bee\nant\ncow dung", "classes.txt": "ant\nbee\ncow dung"}, "different"),
        (
            {
                "config.json": json.dumps(
                    {"id2label": {"0": "ant", "1": "bee"}, "label2id": {"ant": 1, "bee": 0}}
                )
            },
            "id2label and label2id",
        ),
        ({"labels.txt": "ant\nbee\nfly"}, "fly"),
        ({"labels.txt": "ant\nant\nbee"}, "ant"),
    ],
)
def test_what_is_contradictory_or_strange_is_refused(tmp_path: Path, files: dict, says) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        order(tmp_path)
    assert "--labels" in caught.value.fix


def test_the_user_overrules_what_files_say(tmp_path: Path) -> None:
    numbers = ("1", "10", "2")
    (tmp_path / "labels.txt").write_text("2\n10\n1")
    assert order(tmp_path, names=numbers).names == ("2", "10", "1")
    assert order(tmp_path, "natural", numbers).names == ("1", "2", "10")
    assert order(tmp_path, "text", numbers).names == ("1", "10", "2")
    (tmp_path / "two.txt").write_text("1\n2")
    with pytest.raises(ConfigError, match="names 2 classes, the model has 3"):
        order(tmp_path, str(tmp_path / "two.txt"), numbers)
    with pytest.raises(ConfigError, match="cannot be read"):
        order(tmp_path, str(tmp_path / "gone.txt"), numbers)


def test_natural_order_is_that_of_timm() -> None:
    names = ["a10", "B2", "a2", "1", "10", "2"]
    assert natural_order(names) == ("1", "2", "10", "a2", "a10", "B2")


def test_digits_that_are_no_numbers_are_text() -> None:
    names = ("m\xb2", "\xb2", "9" * 5000, "3")  # A superscript; more digits than Python converts.
    assert set(natural_order(names)) == set(names)
    assert natural_order(("b2", "9" * 5000, "3"))[0] == "3"
