"""The search: one coordinator, tasks in worker processes, a ledger that survives everything.

`search`, `SearchWork` and `SearchResult` are loaded when first asked for: a worker process and
`lepton status` need neither Optuna nor ONNX Runtime, which are slow to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_automl.search.coordinator import search
    from lepton_automl.search.work import SearchResult, SearchWork, TrialRow

__all__ = ["SearchResult", "SearchWork", "TrialRow", "search"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "coordinator" if name == "search" else "work"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
