"""Where an artifact comes from: data, search, finalists."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lepton_automl.artifact.manifest import ABOUT, unusable
from lepton_automl.config import Limits
from lepton_automl.cost.latency_model import LatencyModel, from_document


@dataclass(frozen=True)
class Provenance:
    """What the files of a bundle cannot say themselves; `about.json`."""

    lepton: str
    """Version that wrote the bundle."""
    data: str
    data_fingerprint: str
    class_names: tuple[str, ...]
    input: tuple[int, int, int]
    """Height, width, channels."""
    target: str
    prefer: str
    limits: Limits
    latency: LatencyModel | None = None
    """What tells latencies of the device the files are for; None: the machine that verifies."""
    confirmed: tuple[FinalistResult, ...] = ()
    """The search's few best after their last trainings."""
    balanced: bool = False
    """Every class counts alike in accuracies and drops."""
    origin: str = "lepton"
    """Who made the net; `foreign`: somebody else, so that no `Arch` describes it."""
    notes: tuple[str, ...] = ()
    """How a foreign model is fed and was quantized, a sentence each."""

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote."""
        body = json.loads(text)
        body["limits"] = Limits(**body["limits"])
        body["confirmed"] = tuple(FinalistResult.from_dict(c) for c in body.get("confirmed", ()))
        if body.get("latency") is not None:
            body["latency"] = from_document(body["latency"])
        body["notes"] = tuple(body.get("notes", ()))
        body["class_names"], body["input"] = tuple(body["class_names"]), tuple(body["input"])
        return cls(**body)


def read_provenance(folder: Path) -> Provenance:
    """What `about.json` says.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    path = folder / ABOUT
    try:
        return Provenance.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(path, error) from error


@dataclass(frozen=True)
class FinalistResult:
    """One of the few best after trainings from nothing with seeds that the search has not seen."""

    number: int
    """Its trial number."""
    searched: float
    """Share of validation samples right when it was selected: the best of many, so lucky."""
    searched_epochs: int
    accuracies: tuple[float, ...]
    """The same share after each of its trainings to the end, at least one."""
    epochs: int
    """Of each."""
    taught: float | None = None
    """The same share after one more, in which it learnt from all of these as well; None where there
    was none. It does not decide who wins, but the better net ships."""
    augment: float | None = None
    """How much pictures were changed, where its recipe says less; None: as that says."""

    @property
    def accuracy(self) -> float:
        """Mean over its trainings, which decides."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def spread(self) -> float:
        """The best less the worst of its trainings; 0 where there is one."""
        return max(self.accuracies) - min(self.accuracies)

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "number": self.number,
            "searched_accuracy": self.searched,
            "searched_epochs": self.searched_epochs,
            "confirmed_accuracy": self.accuracy,
            "accuracies": list(self.accuracies),
            "spread": self.spread,
            "epochs": self.epochs,
            "taught_accuracy": self.taught,
            "augment": self.augment,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """From its fields, as `dataclasses.asdict` gives them."""
        return cls(**(body | {"accuracies": tuple(body["accuracies"])}))


def finalist_summary(confirmed: Sequence[FinalistResult]) -> str:
    """What the confirmation showed, in a sentence; nothing where nobody was confirmed."""
    if not confirmed:
        return ""
    count = len(confirmed)
    before, after = (
        100 * sum(values) / count
        for values in ([c.searched for c in confirmed], [c.accuracy for c in confirmed])
    )
    means = [100 * c.accuracy for c in confirmed]
    who = f"the best {count} were" if count > 1 else "the best was"
    text = f"{who} trained from nothing with fresh seeds: {before:.2f} % when selected"
    text += f"{' on average' if count > 1 else ''}, {after:.2f} % confirmed"
    text += f", {max(means) - min(means):.2f} points between them" if count > 1 else ""
    text += "".join(
        f", trial {c.number} with augment {c.augment:g}" for c in confirmed if c.augment is not None
    )
    return text + "".join(
        f"; trial {c.number} once more, learning from all of them, {100 * c.taught:.2f} %"
        for c in confirmed
        if c.taught is not None
    )
