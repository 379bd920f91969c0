"""The answers where no net, or hardly one, can meet the limits: what was seen, what would fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from lepton_automl.config import LIMITS, Limits, options_text, would_fit
from lepton_automl.cost import Cost
from lepton_automl.errors import InfeasibleError

FEW = 0.01
"""Share of the drawn points within the limits from which on the user is told."""
ENOUGH = 100
"""Drawn points that tell such a share from none at all, about."""
ROOM = 0.1
"""Share of the drawn points that a named limit would let in."""
SLACK = 1.05
"""A latency is measured anew after a limit was named."""


class Tally:
    """How many points were drawn, how many are within the limits, what the others break.

    Parameters
    ----------
    limits : Limits
        Cost limits count.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._costs: dict[str, list[float]] = {}
        self._broken: Counter[str] = Counter()
        self._nearest = math.inf
        self.drawn, self.within = 0, 0

    def count(self, cost: Cost, broken: Mapping[str, float]) -> None:
        """One more drawn point, its cost and by how much it breaks limits."""
        self.drawn += 1
        self.within += not broken
        self._broken.update(broken.keys())
        if broken:
            self._nearest = min(self._nearest, sum(broken.values()))
        for limit in self._limits.costs:
            value = LIMITS[limit].measured(cost)
            if value is not None:
                self._costs.setdefault(limit, []).append(value)

    @property
    def is_scarce(self) -> bool:
        """Hardly one point is within the limits, as far as points were drawn."""
        return self.drawn >= ENOUGH and self.within < FEW * self.drawn

    def words(self) -> str:
        """What bites, how near the others come and which limit would give room."""
        bites = self._broken.most_common()
        named = ", ".join(f"{limit} ({n / self.drawn:.0%} of the points)" for limit, n in bites)
        near = "" if math.isinf(self._nearest) else f"; the nearest is {self._nearest:.1%} beyond"
        room = " ".join(filter(None, (self._room(limit) for limit, _ in bites)))
        would = f"; {room} would let about one of ten in" if room else ""
        return (
            f"few nets are within the limits, {self.within} of {self.drawn} drawn; what bites: "
            f"{named}{near}{would}"
        )

    def _room(self, limit: str) -> str:
        """The limit that leaves room; nothing where it does already."""
        values = sorted(self._costs.get(limit, []))
        if not values:
            return ""
        wanted = values[min(len(values) - 1, math.ceil(ROOM * len(values)))]
        return options_text({limit: wanted}) if wanted > self._limits.stated[limit] else ""


def impossible(limits: Limits, least: Mapping[str, Cost], nearest: Cost) -> InfeasibleError:
    """The error, with a way out in the words of the command line.

    Parameters
    ----------
    limits : Limits
        As the user stated them.
    least : mapping
        Limit -> the net with the smallest such cost that was found anywhere in the space.
    nearest : Cost
        Of the point that breaks the limits by the least.
    """
    stated = limits.stated
    smallest = {k: LIMITS[k].measured(cost) for k, cost in least.items()}
    beyond = {k: v for k, v in smallest.items() if v is not None and v > stated[k]}
    costs = {limit: _needed(limit, nearest) for limit in least}
    changed = {k: v for k, v in costs.items() if v is not None and v > stated[k]}
    if not beyond:
        return InfeasibleError(
            "no net of this search space can meet all the limits together, nothing was trained; "
            f"the nearest: {_all(nearest, least)}",
            fix=f"{would_fit(changed)} the nearest net seen; or choose another --space",
        )
    seen = "; ".join(
        f"the smallest {LIMITS[limit].noun} seen is {_value(limit, value)}, "
        f"the limit {_value(limit, stated[limit])}"
        for limit, value in beyond.items()
    )
    return InfeasibleError(
        f"no net of this search space can meet the limits, nothing was trained: {seen}",
        fix=f"{would_fit(changed)}; or choose another search space with --space",
    )


def _needed(limit: str, cost: Cost) -> float | None:
    value = LIMITS[limit].measured(cost)
    if limit == "max_latency_ms" and value is not None and cost.latency_basis == "measured":
        return SLACK * max(value, cost.latency_high_ms or value)
    return value


def _all(cost: Cost, limits: Mapping[str, Cost]) -> str:
    values = {limit: LIMITS[limit].measured(cost) for limit in limits}
    return ", ".join(f"{LIMITS[k].noun} {_value(k, v)}" for k, v in values.items() if v is not None)


def _value(limit: str, value: float) -> str:
    """In the unit of the option, rounded up."""
    spec = LIMITS[limit]
    return spec.rounded(value) if spec.unit == "MACs" else f"{spec.rounded(value)} {spec.unit}"
