from __future__ import annotations

import pytest

from lepton_automl.errors import DataError
from lepton_automl.front import draw, read_front
from lepton_automl.run_folder import RunFolder
from lepton_automl.search.ledger import LedgerView
from tests import runs


def test_the_front_of_a_finished_run_is_the_one_it_found(finished_run):
    config, outcome = finished_run
    front, found = read_front(RunFolder(config.out)), outcome.found
    assert (front.number, front.reason) == (found.number, found.reason)
    assert [row.number for row in front.front] == [row.number for row in found.front]
    assert [row.accuracy for row in front.rows] == [row.accuracy for row in found.rows]
    assert front.confirmed == found.confirmed
    assert front.hypervolume == found.hypervolume


def test_every_finished_search_has_its_front_drawn(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    file = config.out / "front.svg"
    text = file.read_text()
    assert f"trial {finished_run[1].found.number}:" in text
    file.unlink()
    with LedgerView(config.out / "ledger.db") as ledger:
        draw(RunFolder(config.out), ledger)
    assert file.read_text() == text


def test_what_has_not_begun_has_no_front(tmp_path):
    with pytest.raises(DataError, match="no trained candidate"):
        read_front(RunFolder(tmp_path))
