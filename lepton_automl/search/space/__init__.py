"""Search spaces: TOML files of choices, sampled into an `Arch` and a `Recipe`."""

from __future__ import annotations

from lepton_automl.search.space.draw import RandomTrial, SpaceTrial
from lepton_automl.search.space.loader import load, names
from lepton_automl.search.space.parameters import Choice, Parameter, Range, Scalar
from lepton_automl.search.space.search_space import SearchSpace

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
