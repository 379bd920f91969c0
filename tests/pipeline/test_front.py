from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lepton_automl.config import Limits
from lepton_automl.errors import DataError
from lepton_automl.pipeline.front import draw, front_of, read_front
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger, LedgerView
from lepton_automl.search.trials import result_event
from lepton_automl.search.workers.task import TaskResult, pack
from tests.helpers import runs
from tests.helpers.search import make_trial


def test_the_front_of_a_finished_run_is_the_one_it_found(finished_run):
    config, outcome = finished_run
    front, found = read_front(RunFolder(config.out)), outcome.search_result
    assert (front.number, front.reason) == (found.number, found.reason)
    assert [row.number for row in front.front] == [row.number for row in found.front]
    assert [row.accuracy for row in front.rows] == [row.accuracy for row in found.rows]
    assert front.finalists == found.finalists
    assert front.hypervolume == found.hypervolume


def test_every_finished_search_has_its_front_drawn(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    file = config.out / "front.svg"
    text = file.read_text()
    assert f"trial {finished_run[1].search_result.number}:" in text
    file.unlink()
    with LedgerView(config.out / "ledger.db") as ledger:
        draw(RunFolder(config.out), ledger)
    assert file.read_text() == text


def test_a_run_that_has_not_begun_has_no_front(tmp_path):
    with pytest.raises(DataError, match="has not begun"):
        read_front(RunFolder(tmp_path))


def test_while_a_search_works_whoever_would_win_by_balanced_accuracy_is_chosen(tmp_path):
    labels = np.repeat([0, 1], [180, 20])
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record("plan", "classes", {"validation": labels.tolist()})
    part = SimpleNamespace(strata=labels, groups=None)
    # The second is right as often, but never about the rare class.
    for number, right in enumerate((np.arange(200) >= 20, np.arange(200) < 180)):
        ledger.record("trial", str(number), make_trial(number, size=20_000 - number).to_event())
        ledger.record("rung", f"{number}-0", result_event(TaskResult((1.0,), pack(right)), 1, part))
    about = {"limits": Limits(), "prefer": "size", "objectives": ("accuracy", "size_bytes")}
    front = front_of(ledger, SimpleNamespace(balanced=True, **about))
    ledger.close()
    assert (front.number, front.is_balanced) == (0, True)
    assert [row.accuracy for row in front.rows] == pytest.approx([(160 / 180 + 1) / 2, 0.5])
