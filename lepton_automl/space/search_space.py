"""SearchSpace: what may be searched, read from TOML, sampled into an `Arch` and a `Recipe`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from lepton_automl import targets
from lepton_automl.arch import Arch, chain
from lepton_automl.layers import Layer
from lepton_automl.recipe import Recipe
from lepton_automl.space.file import Choice, Parameter, Scalar
from lepton_automl.space.shape import fit_to_input, input_size
from lepton_automl.space.tables import Table
from lepton_automl.space.trial import SpaceTrial, suggest, suggest_fields, suggest_layers
from lepton_automl.targets import Target


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
    text : str
        The file as it was read.
    """

    name: str
    doc: str
    resolution: Parameter
    example: tuple[int, int, int]
    stem: Table
    stages: tuple[Table, ...]
    head: Table
    train: Table
    candidates: tuple[dict[str, Scalar], ...]
    candidate_names: tuple[str, ...]
    digest: str
    text: str

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in order."""
        return (self.stem, *self.stages, self.head, self.train)

    @functools.cached_property
    def all_parameters(self) -> dict[str, Parameter]:
        """Everything that can be set, fixed or not, by path."""
        found: dict[str, Parameter] = {"input.resolution": self.resolution}
        for table in self.tables:
            found |= table.all_parameters
        return found

    def parameters(self) -> dict[str, Parameter]:
        """What is open to choose, by path: the parameters of a study."""
        return {path: knob for path, knob in self.all_parameters.items() if len(knob.values) > 1}

    def train_parameters(self, field: str) -> list[Parameter]:
        """The knob of a recipe's field for each optimiser that has it."""
        return [fields[field][1] for fields in self.train.fields.values() if field in fields]

    def with_fixed(self, field: str, *, value: Scalar) -> SearchSpace:
        """The same space with one field of every recipe set; it keeps its name and digest."""
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

    @property
    def points(self) -> int:
        """How many different settings there are."""
        shared = [knob for path, knob in self.all_parameters.items() if path.startswith("all.")]
        counts = [len(knob.values) for knob in (self.resolution, *shared)]
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
        """An architecture and a recipe as `trial` suggests.

        Parameters
        ----------
        trial : SpaceTrial
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
            layers += suggest_layers(table, trial, target)
        optimizer, settings = suggest_fields(self.train, trial, target)
        recipe = Recipe(optimizer=optimizer, **settings)
        return chain(shape, fit_to_input(shape, layers), classes), recipe

    def example_arch(self, trial: SpaceTrial) -> Arch:
        """An architecture for the example's shape and ten classes, its layers fitted together.

        Raises
        ------
        ArchError
            If the layers do not fit together.
        """
        height, width, channels = self.example
        arch, _ = self.sample(
            trial, size=(height, width), channels=channels, classes=10, target=targets.load()
        )
        return arch

    def _size(self, trial: SpaceTrial, size: tuple[int, int] | None) -> tuple[int, int]:
        values = self.resolution.values
        sides = {side: input_size(side, self.resolution, size) for side in values}
        if len(set(sides.values())) == 1:
            return next(iter(sides.values()))
        side: Scalar = suggest(trial, "input.resolution", self.resolution)
        return sides[side]
