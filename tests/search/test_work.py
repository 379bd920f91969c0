from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.searching import work


def test_a_search_has_no_other_deadline_than_its_budget_unless_told(tmp_path: Path) -> None:
    job = work(tmp_path / "run")
    job.ledger.close()
    assert job.deadline() == math.inf
    with pytest.raises(AttributeError):
        job.trials = 5  # type: ignore[misc]
