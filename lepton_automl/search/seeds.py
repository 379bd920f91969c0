"""Seeds of independent random draws, derived from one seed and the names of the draws."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A seed below 2**31 from a hash of the parts' text, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
