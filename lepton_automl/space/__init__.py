"""Search spaces: TOML files of choices, sampled into an `Arch` and a `Recipe`."""

from __future__ import annotations

from lepton_automl.space.file import Choice, Parameter, Range, Scalar
from lepton_automl.space.reading import load, names
from lepton_automl.space.search_space import SearchSpace
from lepton_automl.space.trial import RandomTrial, SpaceTrial

__all__ = [
    "Choice",
    "Parameter",
    "RandomTrial",
    "Range",
    "Scalar",
    "SearchSpace",
    "SpaceTrial",
    "load",
    "names",
]
