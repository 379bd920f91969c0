from __future__ import annotations

import pytest

from lepton_automl.errors import DataError
from lepton_automl.run_folder import RunFolder
from lepton_automl.status import status


def test_a_finished_run_is_told_with_its_verdict(finished_run):
    config, outcome = finished_run
    found = status(RunFolder(config.out))
    assert found.verdict == outcome.verdict
    assert found.events["trial"] == 2
    assert found.has_winner
    assert found.alive_seconds > 0
    assert found.definition.space == "quick"


def test_a_folder_without_a_ledger_has_not_begun(tmp_path):
    with pytest.raises(DataError, match="has not begun"):
        status(RunFolder(tmp_path))
