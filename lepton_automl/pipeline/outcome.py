"""Result of a run, an export or a verification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_automl.artifact.verdict import Verdict
from lepton_automl.core.decisions import Decision

if TYPE_CHECKING:  # It needs torch.
    from lepton_automl.search.request import SearchResult


@dataclass(frozen=True)
class Outcome:
    """Result of a run: its artifact and the verdict on it."""

    artifact: Path
    verdict: Verdict
    search_result: SearchResult | None = None
    """None where the call did not search."""
    decisions: tuple[Decision, ...] = ()
    """What was decided for the user."""
    signer: str = ""
    """Who signed the artifact, by a key that the caller trusts; empty where none was asked for."""
