"""Lepton: labelled data in, the smallest accurate int8 CNN out.

Start reading at `pipeline/run.py`; the packages are described in docs/architecture.md.
`data`, `search`, `compress`, `export`, `sweep` and `front` are in `lepton_automl.api`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_automl.api import pick, predict, run, status, verify
    from lepton_automl.core.version import __version__

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__", "pick", "predict", "run", "status", "verify"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used, so that workers do not load what they do not use.

    Raises
    ------
    AttributeError
        If the package has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module 'lepton_automl' has no attribute {name!r}")
    home = "core.version" if name == "__version__" else "api"
    return getattr(importlib.import_module(f"lepton_automl.{home}"), name)
