"""Class names of an external model in the order of its outputs, and where they are stated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lepton_automl.compress.external.find_preprocessing import config_files, literal
from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import whole_number
from lepton_automl.errors import ConfigError, DataError

ORDERS = ("natural", "text")
"""Words that --labels takes besides a file: 1, 2, 10, or 1, 10, 2."""
_TEXT_FILES = ("labels.txt", "classes.txt", "class_names.txt")
_JSON_FILES = ("labels.json", "class_indices.json", "class_names.json")
_FIX = "give the order of the outputs with --labels FILE, a text file with one class name a line"


@dataclass(frozen=True)
class ClassOrder:
    """Class names in the order of the outputs."""

    names: tuple[str, ...]
    source: str = ""
    """Where the order is stated; empty: nowhere, and it is that of the data."""
    is_option: bool = False
    """Whether the user gave it with --labels."""


def find_class_order(
    path: Path, model: ModelProto, given: str | None, wanted: Sequence[str], classes: int
) -> ClassOrder:
    """The class order of a model.

    Parameters
    ----------
    path, model
        The model.
    given : str, optional
        Value of --labels: `natural`, `text` or a file.
    wanted : sequence of str
        Class names of the data.
    classes : int
        Number of outputs.

    Raises
    ------
    DataError
        If the model has other classes than the data, or two files state different orders.
    ConfigError
        If the file of --labels cannot be used.
    """
    if len(wanted) != classes:
        raise DataError(
            f"{path} has {classes} classes, the data have {len(wanted)}: "
            f"{', '.join(wanted[:5])}{', ...' if len(wanted) > 5 else ''}",
            fix="give data with one folder per class of the model",
        )
    if given in ORDERS:
        order = natural_order(wanted) if given == "natural" else text_order(wanted)
        return ClassOrder(order, f"--labels {given}", is_option=True)
    if given is not None:
        names = _in_file(Path(given))
        if names is None or len(names) != classes:
            raise ConfigError(
                f"--labels {given} names {0 if names is None else len(names)} classes, the model "
                f"has {classes}",
                fix="give a text file with one class name a line, `natural` or `text`",
            )
        return ClassOrder(_matched(names, wanted, given), given, is_option=True)
    stated = [
        (source, _matched(names, wanted, source))
        for source, names in _stated(path, model)
        if len(names) == classes
    ]
    for source, names in stated[1:]:
        if names != stated[0][1]:
            raise DataError(
                f"{stated[0][0]} and {source} state different orders of the classes: "
                f"{_short(stated[0][1])}; {_short(names)}",
                fix=_FIX,
            )
    return ClassOrder(stated[0][1], stated[0][0]) if stated else ClassOrder(tuple(wanted))


def natural_order(names: Sequence[str]) -> tuple[str, ...]:
    """Sorted with numbers by value and without regard to case, as timm does: 1, 2, 10."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"([0-9]+)", name.lower())
        numbers = [(whole_number(part), part) for part in parts if part]
        return [(2, 0, part) if number is None else (1, number, "") for number, part in numbers]

    return tuple(sorted(names, key=lambda name: (key(name), name)))


def text_order(names: Sequence[str]) -> tuple[str, ...]:
    """Sorted as text, as torchvision and Keras do: 1, 10, 2."""
    return tuple(sorted(names))


def labels_in(model: ModelProto) -> tuple[str, ...] | None:
    """Class names in the file's metadata, in the order of its outputs; None if there are none."""
    words = {item.key: item.value for item in model.metadata_props}
    for key in ("labels", "names", "classes", "class_names", "id2label", "label_names"):
        names = _names(literal(words.get(key, "")))
        if names is not None:
            return names
    return None


def _stated(path: Path, model: ModelProto) -> list[tuple[str, tuple[str, ...]]]:
    """Every place that names the classes, with the names."""
    found = []
    own = labels_in(model)
    if own is not None:
        found.append(("the file's metadata", own))
    files = [file for file in config_files(path) if file.name == "config.json"]
    folders = dict.fromkeys([path.parent, *(file.parent for file in files)])
    files += [
        folder / name
        for folder in folders
        for name in (*_TEXT_FILES, *_JSON_FILES)
        if (folder / name).is_file()
    ]
    for file in files:
        names = _in_file(file)
        if names is not None:
            found.append((str(file), names))
    return found


def _in_file(file: Path) -> tuple[str, ...] | None:
    if file.suffix == ".json":
        return _in_json(file, untrusted_files.read_json(file, fix=_FIX, error=ConfigError))
    return _in_text(untrusted_files.read_text(file, fix=_FIX, error=ConfigError))


def _in_text(text: str) -> tuple[str, ...] | None:
    """One name a line, or `0 name`, `0: name`, `0,name` with every number once."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [re.fullmatch(r"([0-9]+)[\s:,;]+(.+)", line) for line in lines]
    numbered = {
        number: pair[2]
        for pair in pairs
        if pair is not None and (number := whole_number(pair[1])) is not None
    }
    if lines and sorted(numbered) == list(range(len(lines))):
        return tuple(numbered[number] for number in range(len(lines)))
    return tuple(lines) or None


def _in_json(file: Path, body: Any) -> tuple[str, ...] | None:
    """`label_names` of timm, `id2label` and `label2id` of Hugging Face, or the names alone."""
    if not isinstance(body, dict) or file.name in _JSON_FILES:
        return _names(body)
    inner = body.get("pretrained_cfg")
    for owner in (body, inner if isinstance(inner, dict) else {}):
        listed = _names(owner.get("label_names"))
        if listed is not None:
            return listed
    by_number, by_name = _names(body.get("id2label")), _names(body.get("label2id"))
    if by_number is not None and by_name is not None and by_number != by_name:
        raise DataError(
            f"{file}: id2label and label2id state different orders of the classes: "
            f"{_short(by_number)}; {_short(by_name)}",
            fix=_FIX,
        )
    return by_number or by_name


def _names(body: Any) -> tuple[str, ...] | None:
    """Names in a list, or in a table from number to name or from name to number."""
    if isinstance(body, dict):
        if _is_counted(body):
            body = [body[key] for key in sorted(body, key=lambda key: int(str(key)))]
        elif _is_counted({str(number): name for name, number in body.items()}):
            body = sorted(body, key=lambda name: int(str(body[name])))
        else:
            return None
    if not isinstance(body, (list, tuple)) or not body:
        return None
    names = tuple(body)
    if not all(isinstance(name, str) for name in names):
        return None
    is_placeholder = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return None if is_placeholder else names


def _is_counted(names: Mapping[Any, Any]) -> bool:
    return sorted(map(str, names)) == sorted(map(str, range(len(names))))


def _matched(names: Sequence[str], wanted: Sequence[str], source: str) -> tuple[str, ...]:
    """The names as the data write them; case, `_`, `-` and spaces may differ.

    Raises
    ------
    DataError
        If the data have other classes.
    """
    if set(names) == set(wanted):
        return tuple(names)
    known = {_plain(name): name for name in wanted}
    plain = [_plain(name) for name in names]
    if len(known) == len(wanted) and set(plain) == set(known) and len(set(plain)) == len(plain):
        return tuple(known[name] for name in plain)
    strange = sorted(set(names) - set(wanted)) or sorted({n for n in names if names.count(n) > 1})
    raise DataError(
        f"{source} has classes that the data do not have: {', '.join(strange[:5])}; the data have "
        f"{_short(sorted(wanted))}",
        fix="name the folders of the data as the model names its classes, or give their names in "
        "the order of the outputs with --labels FILE, one a line",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
