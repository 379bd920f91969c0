"""Decisions that the product makes for the user: what, from which evidence, how to overrule it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

SEARCH_TIME = "search time"
"""Name of the decision on how the time of a search was used: `assumed` where it was too short to
choose the net by comparison."""
SHIPPING_FORMAT = "format that ships"
"""Name of the decision on the file format by its measured time."""

Certainty = Literal["measured", "inferred", "assumed"]


@dataclass(frozen=True)
class Decision:
    """One choice that no option of the user made."""

    name: str
    """What was decided about, unique within a run: `flip`, `pixel scale`, `search space`."""
    choice: str
    """What was decided: `no random flips`."""
    evidence: str
    """What it was decided from, with figures."""
    certainty: Certainty
    """`measured`: the data decide, within a stated error. `inferred`: from the form of the data or
    of the options. `assumed`: nothing decides, so the safe side is taken."""
    option: str
    """What overrules it, such as `--flip on`; empty if nothing does."""
    is_detail: bool = False
    """Whether only `--json` and the model card list it, not the terminal."""

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_document(cls, body: Mapping[str, Any]) -> Self:
        """From what `document` gives."""
        return cls(**body)


def latest(decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    """The last decision of each name, in the order in which the names came up first."""
    return tuple({decision.name: decision for decision in decisions}.values())
