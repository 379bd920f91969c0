"""SearchSpace: what may be searched, read from TOML, sampled into an `Arch` and a `Recipe`."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lepton_automl import plugins
from lepton_automl.arch import Arch, chain
from lepton_automl.errors import LeptonError, SpaceError
from lepton_automl.graph import Builder
from lepton_automl.layers import Layer
from lepton_automl.recipe import Recipe
from lepton_automl.space_file import Choice, Keys, Knob, Scalar, SpaceFile
from lepton_automl.space_tables import Table, layer_table, train_table
from lepton_automl.space_trial import Draw, Trial, drawn, made, suggest
from lepton_automl.targets import Target
from lepton_automl.targets import load as load_target

SECTIONS = ("doc", "input", "all", "stem", "stage", "head", "train", "candidate")
SMALLEST_MAP = 4
"""No stride makes a feature map smaller than this many rows or columns."""
NATIVE = "native"
"""The resolution the data have."""
FALLBACK = 64
"""Side in pixels where pictures vary and the space names no size."""


@dataclass(frozen=True)
class SearchSpace:
    """Stages of choices and training choices.

    Parameters
    ----------
    name : str
        Name of the file without its ending.
    doc : str
        One line about what it is for.
    resolution : Choice or Range
        Side lengths in pixels, or "native".
    example : (int, int, int)
        Height, width and channels that `lepton spaces` counts with.
    stem, stages, head, train : Table
        What is made from what.
    candidates : tuple of dict
        Complete parameter sets known to be good; a search tries them first.
    candidate_names : tuple of str
        Their names.
    digest : str
        Sixteen hexadecimal digits that name the content, comments left out.
    """

    name: str
    doc: str
    resolution: Knob
    example: tuple[int, int, int]
    stem: Table
    stages: tuple[Table, ...]
    head: Table
    train: Table
    candidates: tuple[dict[str, Scalar], ...]
    candidate_names: tuple[str, ...]
    digest: str

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in order."""
        return (self.stem, *self.stages, self.head, self.train)

    @functools.cached_property
    def knobs(self) -> dict[str, Knob]:
        """Everything that can be set, fixed or not, by path."""
        found: dict[str, Knob] = {"input.resolution": self.resolution}
        for table in self.tables:
            found |= table.knobs
        return found

    def parameters(self) -> dict[str, Knob]:
        """What is open to choose, by path: the parameters of a study."""
        return {path: knob for path, knob in self.knobs.items() if len(knob.values) > 1}

    @property
    def points(self) -> int:
        """How many different settings there are."""
        shared = [knob for path, knob in self.knobs.items() if path.startswith("all.")]
        counts = [len(knob.values) for knob in (self.resolution, *shared)]
        return math.prod(counts) * math.prod(table.points for table in self.tables)

    def sample(
        self,
        trial: Trial,
        *,
        size: tuple[int, int] | None,
        channels: int,
        classes: int,
        target: Target,
    ) -> tuple[Arch, Recipe]:
        """An architecture and a recipe as `trial` suggests.

        Parameters
        ----------
        trial : Trial
            An Optuna trial or a `Draw`.
        size : (int, int) or None
            Height and width of the data; None where pictures vary.
        channels, classes : int
            Channels of a picture, number of classes.
        target : Target
            Activations that are slow on it are left out where others are listed.

        Raises
        ------
        ArchError
            If the layers do not fit together.
        """
        height, width = self._size(trial, size)
        shape = (height, width, channels)
        layers: list[Layer] = []
        for table in (self.stem, *self.stages, self.head):
            layers += made(table, trial, target)
        optimizer, settings = drawn(self.train, trial, target)
        recipe = Recipe(optimizer=optimizer, **settings)
        return chain(shape, _fitted(shape, layers), classes), recipe

    def _size(self, trial: Trial, size: tuple[int, int] | None) -> tuple[int, int]:
        sides = {value: _scaled(value, self.resolution, size) for value in self.resolution.values}
        if len(set(sides.values())) == 1:
            return next(iter(sides.values()))
        return sides[suggest(trial, "input.resolution", self.resolution)]


def load(name: str) -> SearchSpace:
    """The search space `name`: one that is shipped, or the path of a TOML file.

    Raises
    ------
    SpaceError
        If there is no such space, or its file is wrong: with the line, the rule and the nearest
        known name.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in names():
            raise plugins.unknown(name, names(), "search space", SpaceError)
        path = _folder() / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(
            f"search space {name!r} cannot be read: {error}",
            fix=f"give the path of a TOML text, or one of: {', '.join(names())}",
        ) from error
    return _read(SpaceFile(str(path), text), path.stem)


def names() -> list[str]:
    """Names of the search spaces that are shipped."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def _folder() -> Path:
    """Inside the package once installed, beside it in a checkout."""
    inside = Path(__file__).parent / "search_spaces"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "search_spaces"


def _read(file: SpaceFile, name: str) -> SearchSpace:
    file.check_names((), file.document, SECTIONS, "section of a search space")
    inputs = file.table("input")
    file.check_names(("input",), inputs, ["resolution", "example"], "field of [input]")
    stages = range(file.count("stage"))
    space = SearchSpace(
        name=name,
        doc=str(file.document.get("doc", "")),
        resolution=_resolution(file, inputs.get("resolution", NATIVE)),
        example=_example(file, inputs.get("example", [32, 32, 3])),
        stem=layer_table(file, ("stem",), "stem", "stem"),
        stages=tuple(layer_table(file, ("stage", n), f"stage{n + 1}") for n in stages),
        head=layer_table(file, ("head",), "head", "head"),
        train=train_table(file),
        candidates=(),
        candidate_names=(),
        digest=hashlib.sha256(json.dumps(file.document, sort_keys=True).encode()).hexdigest()[:16],
    )
    return _with_candidates(file, space)


def _resolution(file: SpaceFile, value: Any) -> Knob:
    keys: Keys = ("input", "resolution")
    knob = file.knob(keys, value)
    for item in knob.values:
        if item != NATIVE and (type(item) is not int or not 8 <= item <= 1024):
            what = f"resolution = {item!r}, the rule is {NATIVE!r} or 8 to 1024 pixels"
            raise file.error(keys, what, "give resolution legal values")
    return knob


def _example(file: SpaceFile, value: Any) -> tuple[int, int, int]:
    legal = isinstance(value, list) and len(value) == 3 and all(type(n) is int for n in value)
    if not legal or min(value) < 1:
        what = f"example = {value!r}, the rule is height, width and channels"
        raise file.error(("input", "example"), what, "write for instance: example = [32, 32, 3]")
    return (value[0], value[1], value[2])


def _with_candidates(file: SpaceFile, space: SearchSpace) -> SearchSpace:
    found: dict[str, dict[str, Scalar]] = {}
    for number in range(file.count("candidate")):
        keys: Keys = ("candidate", number)
        raw = file.table(*keys)
        label = str(raw.pop("name", f"candidate {number + 1}"))
        found[label] = _candidate(file, keys, space.knobs, raw)
        _check_builds(file, keys, space, found[label])
    return replace(space, candidates=tuple(found.values()), candidate_names=tuple(found))


def _candidate(
    file: SpaceFile, keys: Keys, knobs: Mapping[str, Knob], raw: dict[str, Any]
) -> dict[str, Scalar]:
    """A complete set: what is not named gets the first value of its knob."""
    full = {path: knob.values[0] for path, knob in knobs.items() if len(knob.values) > 1}
    for path, value in _flat(raw):
        if path not in knobs:
            raise file.unknown((*keys, path), list(knobs), "parameter of this space")
        if value not in knobs[path].values:
            what = f"{path} = {value!r}, the rule is {knobs[path]}"
            raise file.error((*keys, *path.split(".")), what, f"give {path} one of these values")
        if path in full:
            full[path] = knobs[path].values[knobs[path].values.index(value)]
    return full


def _check_builds(
    file: SpaceFile, keys: Keys, space: SearchSpace, params: dict[str, Scalar]
) -> None:
    height, width, channels = space.example
    try:
        space.sample(
            Draw(0, params),
            size=(height, width),
            channels=channels,
            classes=10,
            target=load_target(),
        )[0].graph  # noqa: B018
    except LeptonError as error:
        raise file.error(keys, error.what, error.fix) from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _scaled(side: Scalar, knob: Knob, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width to use; data are never enlarged, and keep their shape if they have one.

    "native" is the data's own size up to the largest listed one, and that one where pictures vary.
    """
    listed = [value for value in knob.values if isinstance(value, int)]
    limit = side if isinstance(side, int) else max(listed, default=None)
    if size is None:
        return (limit or FALLBACK, limit or FALLBACK)
    longest = max(size)
    if limit is None or limit >= longest:
        return size
    return (max(1, round(size[0] * limit / longest)), max(1, round(size[1] * limit / longest)))


def _fitted(input: tuple[int, int, int], layers: list[Layer]) -> list[Layer]:
    """The layers with strides lowered where a map would become too small.

    One without a width (a pooling) that may not stride is left out.
    """
    height, width, channels = input
    kept: list[Layer] = []
    for layer in layers:
        fitted = _fit(layer, height, width, channels)
        if fitted is not None:
            kept.append(fitted)
            height, width, channels = _output(fitted, height, width, channels)
    return kept


def _fit(layer: Layer, height: int, width: int, channels: int) -> Layer | None:
    fields = layer.searchable()
    if "stride" not in fields:
        return layer
    fits = min(_output(layer, height, width, channels)[:2]) >= min(SMALLEST_MAP, height, width)
    if fits:
        return layer
    if not any(about["kind"] == "width" for about in fields.values()):
        return None
    lower = [n for n in fields["stride"]["choices"] if n < layer.stride]  # type: ignore[attr-defined]
    return _fit(replace(layer, stride=max(lower)), height, width, channels) if lower else layer


def _output(layer: Layer, height: int, width: int, channels: int) -> tuple[int, int, int]:
    build = Builder(height, width, channels)
    build.enter(0, layer)
    value = layer.placed_after(channels).lower(build, build.input)
    return (value.height, value.width, value.channels)
