"""The user's cache folder, whose content may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_DIR = "LEPTON_CACHE_DIR"
"""Environment variable: the cache folder, in place of the default."""


def cache_folder() -> Path:
    """`$LEPTON_CACHE_DIR`, else `$XDG_CACHE_HOME/lepton`, else `~/.cache/lepton`."""
    if own := os.environ.get(CACHE_DIR):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and is ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "lepton"
