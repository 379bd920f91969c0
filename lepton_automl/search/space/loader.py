"""Load search spaces: built-in ones by name, or TOML files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lepton_automl.core import plugins, untrusted_files
from lepton_automl.core.untrusted_files import TOML
from lepton_automl.errors import LeptonError, SpaceError
from lepton_automl.models.front_end import LogMel, default_frame
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.parameters import Keys, Parameter, Scalar, SpaceFile
from lepton_automl.search.space.search_space import SearchSpace, SmallDataValues
from lepton_automl.search.space.tables import check_all, layer_table, train_table

_SECTIONS = ("doc", "input", "all", "stem", "stage", "head", "train", "few", "candidate")
_MOST_STAGES = 256
_NATIVE = "native"
"""The resolution of the data."""
_AUDIO, _RATE = "audio", 16_000
"""Kind of a space for sound, and the rate of its example, hertz."""


def load(name: str | Path) -> SearchSpace:
    """Load the search space `name`: a built-in one, or the path of a TOML file.

    Raises
    ------
    SpaceError
        If there is no such space, or its file is wrong; the message names the line, the rule and
        the nearest known name.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in names():
            raise plugins.unknown_name(str(name), names(), "search space", SpaceError)
        path = _folder() / f"{name}.toml"
    fix = f"give the path of a TOML text, or one of: {', '.join(names())}"
    text = untrusted_files.read_text(path, TOML, fix=fix, error=SpaceError)
    return _read(SpaceFile(str(path), text), path.stem)


def names() -> list[str]:
    """Names of the built-in search spaces, sorted."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def _folder() -> Path:
    """Folder of the built-in spaces: in the package once installed, beside it in a checkout."""
    package = Path(__file__).parents[2]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def _read(file: SpaceFile, name: str) -> SearchSpace:
    file.check_names((), file.document, _SECTIONS, "section of a search space")
    inputs = file.table("input")
    file.check_names(("input",), inputs, ["resolution", "example", "kind"], "field of [input]")
    example = _example(file, inputs.get("example", [32, 32, 3]))
    stages = range(file.count("stage"))
    if len(stages) > _MOST_STAGES:
        what = f"it has {len(stages)} stages, at most {_MOST_STAGES} are read"
        raise file.error((), what, "repeat layers with depth, up to 50 a stage")
    space = SearchSpace(
        name=name,
        doc=str(file.document.get("doc", "")),
        resolution=_resolution(file, inputs.get("resolution", _NATIVE)),
        example=example,
        front_end=_front_end(file, inputs, example),
        stem=layer_table(file, ("stem",), "stem", "stem"),
        stages=tuple(layer_table(file, ("stage", n), f"stage{n + 1}") for n in stages),
        head=layer_table(file, ("head",), "head", "head"),
        train=train_table(file),
        candidates=(),
        candidate_names=(),
        candidate_sides=(),
        digest=hashlib.sha256(json.dumps(file.document, sort_keys=True).encode()).hexdigest()[:16],
        text=file.text,
    )
    check_all(file, [kind for table in space.tables for kind in table.layer_types.values()])
    return _with_candidates(file, space)


def _resolution(file: SpaceFile, value: Any) -> Parameter:
    keys: Keys = ("input", "resolution")
    parameter = file.parameter(keys, value)
    for item in parameter.values:
        if item != _NATIVE and (type(item) is not int or not 8 <= item <= 1024):
            what = f"resolution = {item!r}, the rule is {_NATIVE!r} or 8 to 1024 pixels"
            raise file.error(keys, what, "give resolution legal values")
    return parameter


def _example(file: SpaceFile, value: Any) -> tuple[int, ...]:
    legal = isinstance(value, list) and len(value) in (2, 3) and all(type(n) is int for n in value)
    if not legal or min(value) < 1:
        rule = "height, width and channels, or length and channels in a space for signals"
        what = f"example = {value!r}, the rule is {rule}"
        raise file.error(("input", "example"), what, "write for instance: example = [32, 32, 3]")
    return tuple(value)


def _front_end(
    file: SpaceFile, inputs: Mapping[str, Any], example: tuple[int, ...]
) -> LogMel | None:
    """Of the example in a space for audio, at 16 kHz; None in other spaces."""
    if "kind" not in inputs:
        return None
    kind, resolution = inputs["kind"], inputs.get("resolution", _NATIVE)
    if kind != _AUDIO or resolution != _NATIVE:
        what = f"kind = {kind!r} with resolution = {resolution!r}"
        rule = f"the rule is {_AUDIO!r} with {_NATIVE!r}, or no kind"
        raise file.error(("input", "kind"), f"{what}, {rule}", "leave kind out")
    if example[2:] != (1,):
        what = f"example = {list(example)}, the rule is frames, bands and 1 channel"
        raise file.error(("input", "example"), what, "write example = [49, 40, 1]")
    frame, hop = default_frame(_RATE)
    frames, mels = example[0], example[1]
    window = frame + (frames - 1) * hop
    try:
        return LogMel(_RATE, window, window, frame, hop, mels, 0.0, _RATE / 2, 1.0, 0.1)
    except ValueError as error:
        raise file.error(("input", "example"), str(error), "give frames, bands and 1") from error


def _with_candidates(file: SpaceFile, space: SearchSpace) -> SearchSpace:
    found: dict[str, dict[str, Scalar]] = {}
    sides: list[int] = []
    for number in range(file.count("candidate")):
        keys: Keys = ("candidate", number)
        raw = file.table(*keys)
        label = str(raw.pop("name", f"candidate {number + 1}"))
        if label in found:
            what = f"two candidates are named {label!r}"
            raise file.error((*keys, "name"), what, "give each its own name")
        side = raw.pop("min_side", 1)
        if type(side) is not int or side < 1:
            what = f"min_side = {side!r}, the rule is a number of pixels from 1 on"
            raise file.error((*keys, "min_side"), what, "leave it out, or give for instance 64")
        sides.append(side)
        found[label] = _candidate(file, keys, space, raw)
        _check_builds(file, keys, space, found[label])
    return replace(
        space,
        candidates=tuple(found.values()),
        candidate_names=tuple(found),
        candidate_sides=tuple(sides),
        few=_few(file, space),
    )


def _few(file: SpaceFile, space: SearchSpace) -> SmallDataValues:
    """The table `few`; it changes nothing where it is missing."""
    if "few" not in file.document:
        return SmallDataValues()
    raw = file.table("few")
    samples = raw.pop("samples", None)
    if type(samples) is not int or samples < 1:
        what = f"samples = {samples!r}, the rule is a number of training samples from 1 on"
        raise file.error(("few", "samples"), what, "give for instance samples = 3000")
    return SmallDataValues(samples, _checked(file, ("few",), space, raw))


def _candidate(
    file: SpaceFile, keys: Keys, space: SearchSpace, raw: dict[str, Any]
) -> dict[str, Scalar]:
    """Complete a candidate: parameters that it does not name get their first value."""
    full = {path: parameter.values[0] for path, parameter in space.parameters().items()}
    given = _checked(file, keys, space, raw)
    return full | {path: value for path, value in given.items() if path in full}


def _checked(
    file: SpaceFile, keys: Keys, space: SearchSpace, raw: dict[str, Any]
) -> dict[str, Scalar]:
    """Values by parameter, as the space has them."""
    parameters, found = space.all_parameters, dict[str, Scalar]()
    for path, value in _flat(raw):
        if path not in parameters:
            spot = (*keys, *path.split("."))
            raise file.unknown(spot, [*space.parameters()], "parameter of this space", path)
        if value not in parameters[path].values:
            what = f"{path} = {value!r}, the rule is {parameters[path]}"
            raise file.error((*keys, *path.split(".")), what, f"give {path} one of these values")
        found[path] = parameters[path].values[parameters[path].values.index(value)]
    return found


def _check_builds(
    file: SpaceFile, keys: Keys, space: SearchSpace, params: dict[str, Scalar]
) -> None:
    try:
        space.example_arch(RandomTrial(0, params))
    except LeptonError as error:
        raise file.error(keys, error.what, error.fix) from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
