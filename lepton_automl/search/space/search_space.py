"""A search space: tables of parameters, from which an `Arch` and a `Recipe` are sampled."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from lepton_automl.cost import targets
from lepton_automl.cost.targets import Target
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.layers import Layer
from lepton_automl.search.space.draw import (
    SpaceTrial,
    suggest,
    suggest_fields,
    suggest_layers,
    with_stride,
)
from lepton_automl.search.space.parameters import Choice, Parameter, Scalar
from lepton_automl.search.space.tables import SpaceTable
from lepton_automl.training.recipe import Recipe

MOST_WEIGHTS = 1 << 27
"""Of a net. As float32 they take half of the largest file of weights that is read (`WEIGHTS` in
`core.untrusted_files`), and its cost is known within a second."""
_MIN_MAP_SIDE = 4
"""Strides do not reduce feature maps below this many rows or columns."""
_DEFAULT_SIDE = 64
"""Side in pixels where picture sizes vary and the space lists none."""


@dataclass(frozen=True)
class SmallDataValues:
    """Values that replace those of candidates if there are few training samples."""

    samples: int = 0
    """With fewer training samples than these."""
    values: dict[str, Scalar] = field(default_factory=dict)
    """Values by parameter."""


@dataclass(frozen=True)
class SearchSpace:
    """Parameters of architecture and training, as read from a TOML file.

    Parameters
    ----------
    name : str
        Name of the file without its suffix.
    doc : str
        One line that describes it.
    resolution : Choice or Range
        Side lengths in pixels, or "native".
    example : tuple of int
        Input for `lepton spaces`: height, width and channels, or, in a space for signals, length
        and channels.
    stem, stages, head, train : SpaceTable
        The tables of the file.
    candidates : tuple of dict
        Complete sets of values known to be good; a search tries them first.
    candidate_names : tuple of str
        Their names.
    candidate_sides : tuple of int
        Least rows or columns, whichever are more, of the pictures that each is known to be good
        for.
    few : SmallDataValues
        What candidates get where training samples are few.
    has_few_samples : bool
        Whether candidates have got that.
    front_end : LogMel, optional
        Of its nets, which classify sound: that of the data, or one for the example; None: they
        read other samples.
    digest : str
        Sixteen hexadecimal digits of a hash of the content without comments.
    text : str
        The file as it was read.
    """

    name: str
    doc: str
    resolution: Parameter
    example: tuple[int, ...]
    stem: SpaceTable
    stages: tuple[SpaceTable, ...]
    head: SpaceTable
    train: SpaceTable
    candidates: tuple[dict[str, Scalar], ...]
    candidate_names: tuple[str, ...]
    candidate_sides: tuple[int, ...]
    digest: str
    text: str
    few: SmallDataValues = field(default_factory=SmallDataValues)
    has_few_samples: bool = False
    front_end: LogMel | None = None

    @property
    def kind(self) -> Literal["pictures", "signals", "audio"]:
        """What its nets classify."""
        if self.front_end is not None:
            return "audio"
        return "signals" if len(self.example) == 2 else "pictures"

    @property
    def tables(self) -> tuple[SpaceTable, ...]:
        """All tables, in order."""
        return (self.stem, *self.stages, self.head, self.train)

    @functools.cached_property
    def all_parameters(self) -> dict[str, Parameter]:
        """All parameters by path, fixed ones included."""
        found: dict[str, Parameter] = {"input.resolution": self.resolution}
        for table in self.tables:
            found |= table.all_parameters
        return found

    def parameters(self) -> dict[str, Parameter]:
        """Parameters with more than one value, by path: those of a study."""
        return {
            path: parameter
            for path, parameter in self.all_parameters.items()
            if len(parameter.values) > 1
        }

    def train_parameters(self, field: str) -> list[Parameter]:
        """Parameters of a recipe's field, one for each optimizer that has it."""
        return [fields[field][1] for fields in self.train.fields.values() if field in fields]

    def with_fixed(self, field: str, *, value: Scalar) -> SearchSpace:
        """Copy with one field of every recipe fixed; name and digest stay."""
        fixed = {
            name: {**fields, field: (f"train.{field}", Choice((value,)))}
            for name, fields in self.train.fields.items()
        }
        changed = replace(self, train=replace(self.train, fields=fixed))
        gone = self.all_parameters.keys() - changed.parameters().keys()
        candidates = tuple(
            {path: set_to for path, set_to in candidate.items() if path not in gone}
            for candidate in self.candidates
        )
        return replace(changed, candidates=candidates)

    def for_samples(self, count: int) -> SearchSpace:
        """Copy with the candidates for `count` training samples; name and digest stay."""
        if count >= self.few.samples:
            return self
        changed = tuple(
            candidate | {path: v for path, v in self.few.values.items() if path in candidate}
            for candidate in self.candidates
        )
        return replace(self, candidates=changed, has_few_samples=True)

    def candidates_for(self, size: tuple[int, int] | None) -> list[dict[str, Scalar]]:
        """The candidates that are known to be good for pictures of this size; None: it varies.

        The first one always is among them.
        """
        side = math.inf if size is None else max(size)
        pairs = zip(self.candidates, self.candidate_sides, strict=True)
        return [one for number, (one, least) in enumerate(pairs) if not number or least <= side]

    @property
    def points(self) -> int:
        """Number of different points."""
        shared = [
            parameter for path, parameter in self.all_parameters.items() if path.startswith("all.")
        ]
        counts = [len(parameter.values) for parameter in (self.resolution, *shared)]
        return math.prod(counts) * math.prod(table.points for table in self.tables)

    def sample(
        self,
        trial: SpaceTrial,
        *,
        size: tuple[int, int] | None,
        channels: int,
        classes: int,
        target: Target,
    ) -> tuple[Arch, Recipe]:
        """Sample an architecture and a recipe from the values that `trial` suggests.

        Parameters
        ----------
        trial : SpaceTrial
            An Optuna trial or a `RandomTrial`.
        size : (int, int) or None
            Height and width of the data, (1, length) of signals; None where pictures vary.
        channels, classes : int
            Channels of a sample, number of classes.
        target : Target
            Its slow activations are replaced by fast ones that the space lists.

        Raises
        ------
        ArchError
            If the layers do not fit together, or have more than `MOST_WEIGHTS` weights.
        """
        height, width = self._size(trial, size)
        shape = (width, channels) if self.kind == "signals" else (height, width, channels)
        layers: list[Layer] = []
        for table in (self.stem, *self.stages, self.head):
            layers += suggest_layers(table, trial, target)
        optimizer, settings = suggest_fields(self.train, trial, target)
        recipe = Recipe(optimizer=optimizer, **settings)
        arch = replace(chain(shape, fit_to_input(shape, layers), classes), front_end=self.front_end)
        if arch.weights > MOST_WEIGHTS:
            raise ArchError(
                f"a net of the space {self.name} has {arch.weights:,} weights, at most "
                f"{MOST_WEIGHTS:,} are trained",
                fix="give fewer or narrower layers",
            )
        return arch, recipe

    def example_arch(self, trial: SpaceTrial) -> Arch:
        """Sample an architecture for the example input and ten classes.

        Raises
        ------
        ArchError
            If the layers do not fit together.
        """
        size = Arch(self.example, ()).size
        arch, _ = self.sample(
            trial, size=size, channels=self.example[-1], classes=10, target=targets.load()
        )
        return arch

    def _size(self, trial: SpaceTrial, size: tuple[int, int] | None) -> tuple[int, int]:
        values = self.resolution.values
        sides = {side: input_size(side, self.resolution, size) for side in values}
        if len(set(sides.values())) == 1:
            return next(iter(sides.values()))
        side: Scalar = suggest(trial, "input.resolution", self.resolution)
        return sides[side]


def input_size(side: Scalar, parameter: Parameter, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of a net's input; data are never enlarged and keep their aspect ratio.

    "native" is the size of the data, at most the largest listed one; that one where sizes vary.
    """
    listed = [value for value in parameter.values if isinstance(value, int)]
    limit = side if isinstance(side, int) else max(listed, default=None)
    if size is None:
        return (limit or _DEFAULT_SIDE, limit or _DEFAULT_SIDE)
    longest = max(size)
    if limit is None or limit >= longest:
        return size
    return (max(1, round(size[0] * limit / longest)), max(1, round(size[1] * limit / longest)))


def fit_to_input(input: tuple[int, ...], layers: list[Layer]) -> list[Layer]:
    """Lower strides where a feature map would become too small.

    A layer without a width (pooling) is removed instead.
    """
    shape, kept = input, list[Layer]()
    for layer in layers:
        one = _lower_stride(layer, shape)
        if one is not None:
            kept.append(one)
            shape = _output(one, shape)
    return kept


def _lower_stride(layer: Layer, shape: tuple[int, ...]) -> Layer | None:
    fields = layer.searchable_fields()
    if "stride" not in fields:
        return layer
    fits = min(_output(layer, shape)[:-1]) >= min(_MIN_MAP_SIDE, *shape[:-1])
    if fits:
        return layer
    if not any(about["kind"] == "width" for about in fields.values()):
        return None
    lower = [n for n in fields["stride"]["choices"] if n < layer.stride]  # type: ignore[attr-defined]
    return _lower_stride(with_stride(layer, max(lower)), shape) if lower else layer


def _output(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the layer's output on an input as `Arch.input`."""
    builder = Arch(shape, ()).builder()
    builder.begin_layer(0, layer)
    value = layer.with_input_channels(shape[-1]).lower(builder, builder.input)
    size = (value.height, value.width)[-value.spatial_axes :]
    return (*size, value.channels)
