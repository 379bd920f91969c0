"""How far a run is, read from its ledger while it may be working."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lepton_automl import bundle
from lepton_automl.errors import DataError
from lepton_automl.manifest import MANIFEST
from lepton_automl.run_folder import Definition, RunFolder
from lepton_automl.search.ledger import LedgerView
from lepton_automl.verdict import Verdict


@dataclass(frozen=True)
class Status:
    """A run as it is now."""

    folder: RunFolder
    definition: Definition
    alive_seconds: float
    """Seconds in which commands worked on it."""
    events: dict[str, int]
    """How many events of each kind the ledger holds."""
    has_winner: bool
    verdict: Verdict | None
    """None until the artifact is complete."""


def status(folder: RunFolder) -> Status:
    """Read a run; nothing is changed.

    Raises
    ------
    LeptonError
        If the folder does not hold a readable run.
    """
    if not folder.ledger.is_file():
        raise DataError(
            f"{folder.path} has not begun: there is no {folder.ledger.name}",
            fix="run `lepton run` or `lepton search` into this folder",
        )
    with LedgerView(folder.ledger) as ledger:
        events = dict(Counter(kind for kind, _, _ in ledger.events()))
        seconds = ledger.alive_seconds()
    is_complete = (folder.artifact / MANIFEST).is_file()
    return Status(
        folder=folder,
        definition=folder.definition(),
        alive_seconds=seconds,
        events=events,
        has_winner=(folder.best / "weights.safetensors").is_file(),
        verdict=bundle.read_verdict(folder.artifact) if is_complete else None,
    )
