"""Several workers finish in another order each time; what a candidate becomes does not change."""

from __future__ import annotations

from lepton_automl.runs.ledger import EventKind
from lepton_automl.search import rungs
from lepton_automl.search.executors.processes import ProcessExecutor
from lepton_automl.search.loop import search
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Trial, Trials
from tests.helpers.search import InlineWorkers, search_request


def test_every_candidate_gets_the_weights_it_would_have_got_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 1)
    job = search_request(tmp_path / "run", jobs=3, trials=5)
    monkeypatch.setattr(TaskBuilder, "delete", lambda self, key: None)
    monkeypatch.setattr(TaskBuilder, "delete_all_but", lambda self, keep: None)
    with ProcessExecutor(3, job.folder.path / "locks") as pool:
        found = search(job, pool)
    kept = {
        weights.parent.name: weights.read_bytes()
        for weights in job.folder.checkpoints.glob("*/weights.safetensors")
    }
    alone, trials = search_request(tmp_path / "alone", job.ledger), Trials()
    checked = 0
    for row in found.rows:
        candidate = Trial.from_event(job.ledger.get(EventKind.TRIAL, str(row.number)))
        trials.add(candidate)
        for rung in range(row.rung + 1):
            task = TaskBuilder(alone, trials).rung(candidate, rung)
            InlineWorkers().run(task)
            name = f"{row.number:05d}-{rung}"
            written = alone.folder.checkpoints / name / "weights.safetensors"
            assert written.read_bytes() == kept[name]
            checked += 1
    assert checked >= 6, "every trial, and at least one that went on"
    job.ledger.close()
