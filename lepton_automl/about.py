"""About: what the files of an artifact cannot say themselves; `about.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.config import Limits
from lepton_automl.confirmed import Confirmed
from lepton_automl.latency_model import LatencyModel, from_document
from lepton_automl.manifest import ABOUT, unusable


@dataclass(frozen=True)
class About:
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
    confirmed: tuple[Confirmed, ...] = ()
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
    def from_json(cls, text: str) -> About:
        """Read what `to_json` wrote."""
        body = json.loads(text)
        body["limits"] = Limits(**body["limits"])
        body["confirmed"] = tuple(Confirmed.from_dict(c) for c in body.get("confirmed", ()))
        if body.get("latency") is not None:
            body["latency"] = from_document(body["latency"])
        body["notes"] = tuple(body.get("notes", ()))
        body["class_names"], body["input"] = tuple(body["class_names"]), tuple(body["input"])
        return cls(**body)


def read_about(folder: Path) -> About:
    """What `about.json` says.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    path = folder / ABOUT
    try:
        return About.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(path, error) from error
