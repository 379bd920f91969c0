"""The answer where no net can meet the limits: what was seen, and what would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from lepton_automl.config import COST_LIMITS, Limits
from lepton_automl.cost import Cost
from lepton_automl.errors import InfeasibleError


def impossible(limits: Limits, least: Mapping[str, float], nearest: Cost) -> InfeasibleError:
    """The error, with a way out in the words of the command line.

    Parameters
    ----------
    limits : Limits
        As the user stated them.
    least : mapping
        Cost name -> the least seen anywhere in the space.
    nearest : Cost
        Of the point that breaks the limits by the least.
    """
    stated = {k: v for k, v in limits.stated.items() if k in COST_LIMITS}
    beyond = {
        limit: least[COST_LIMITS[limit]]
        for limit, wanted in stated.items()
        if least.get(COST_LIMITS[limit], 0) > wanted
    }
    if beyond:
        seen = "; ".join(
            f"the smallest {_words(limit)} seen is {_value(limit, value)}, "
            f"the limit {_value(limit, stated[limit])}"
            for limit, value in beyond.items()
        )
        would_fit = " ".join(option(limit, value) for limit, value in beyond.items())
        return InfeasibleError(
            f"no net of this search space can meet the limits, nothing was trained: {seen}",
            fix=f"{would_fit} would fit; or choose another search space with --space",
        )
    costs = {limit: getattr(nearest, COST_LIMITS[limit]) for limit in stated}
    would_fit = " ".join(option(k, max(v, stated[k])) for k, v in costs.items() if v is not None)
    return InfeasibleError(
        "no net of this search space can meet all the limits together, nothing was trained",
        fix=f"{would_fit} would fit the nearest net seen; or choose another --space",
    )


def option(limit: str, value: float) -> str:
    """A limit as the command line takes it, no tighter than `value`."""
    return f"{_SHOWN[limit][0]} {_value(limit, value)}"


def _words(limit: str) -> str:
    return _SHOWN[limit][1]


def _value(limit: str, value: float) -> str:
    return _SHOWN[limit][2](value)


def _kilo(value: float) -> str:
    return f"{math.ceil(value / 100) / 10:g}"


def _milliseconds(value: float) -> str:
    return f"{math.ceil(value * 1e4) / 1e4:g}"


_SHOWN: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "max_latency_ms": ("--max-latency-ms", "latency in ms", _milliseconds),
    "max_size_bytes": ("--max-size-kb", "size in kB", _kilo),
    "max_macs": ("--max-macs", "number of MACs", lambda value: str(math.ceil(value))),
    "max_peak_ram_bytes": ("--max-ram-kb", "peak RAM in kB", _kilo),
}
"""Limit -> its option, the cost in words, and how a value is shown: rounded up."""
