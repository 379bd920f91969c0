from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing, contextmanager

import numpy as np
import onnxruntime
import pytest

from lepton_automl.compress.pruning.cut import cut_channels
from lepton_automl.config import Limits, options_text
from lepton_automl.core.events import silent
from lepton_automl.cost.cost import excess
from lepton_automl.data.dataset import open_dataset
from lepton_automl.errors import ConfigError, DataError, InfeasibleError
from lepton_automl.models.model import Model
from lepton_automl.pipeline import pick as picking
from lepton_automl.pipeline.context import open_run
from lepton_automl.pipeline.front import read_front
from lepton_automl.pipeline.pick import PickCandidates, PickRequest, pick
from lepton_automl.runs.folder import RunFolder, configured
from lepton_automl.runs.ledger import LedgerView
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import pack, unpack
from tests.helpers import runs


@contextmanager
def candidates(config, limits):
    with (
        open_run(config, silent) as run,
        closing(MeasurementLock(run.folder.path / "checkpoints")) as lock,
    ):
        asked = dataclasses.replace(run.config, limits=limits)
        yield PickCandidates(dataclasses.replace(run, config=asked), lock)


def test_all_trials_and_kept_steps_are_points_with_their_costs(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with candidates(config, Limits()) as found:
        points = found.legal()
    trials = {point.option.number: point for point in points if point.step is None}
    rows = {row.number: row for row in finished_run[1].search_result.rows}
    assert {n: p.option.cost.macs for n, p in trials.items()} == {
        n: row.cost.macs for n, row in rows.items()
    }
    for point in points:
        if point.step is not None:
            assert point.option.cost.macs == Model.load(point.step).arch.graph.macs
            assert point.trial == finished_run[1].search_result.number
    assert len({point.option.number for point in points}) == len(points)


def test_only_those_that_keep_the_limits_are_legal_and_the_rest_is_told(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with candidates(config, Limits()) as found:
        sizes = sorted(point.option.cost.size_bytes for point in found.legal())
    limits = Limits(max_size_bytes=sizes[-1] - 1)
    with candidates(config, limits) as found:
        assert all(not excess(point.option.cost, limits) for point in found.legal())
    with candidates(config, Limits(max_size_bytes=100)) as found:
        with pytest.raises(InfeasibleError, match="size at most 100 B") as caught:
            found.legal()
        text = options_text({"max_size_bytes": sizes[0]})
    assert text in caught.value.fix


def test_a_latency_that_was_never_asked_for_is_measured_for_the_pick(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with candidates(config, Limits(max_latency_ms=1000.0)) as found:
        points = found.legal()
    assert all(point.option.cost.latency_ms > 0 for point in points)


def test_an_epoch_of_a_larger_net_takes_longer(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with candidates(config, Limits()) as found:
        trials = found.trials
        small, large = sorted(trials, key=lambda number: trials[number].cost.macs)
        assert 0 < found.seconds_per_epoch(small) < found.seconds_per_epoch(large)
        reserved = found.stage_budget(small, 100.0)
    assert 0 < reserved.verify < 50


def resumed(folder, **changes):
    return configured(RunFolder(folder), **changes)


def smaller(folder):
    """The cheaper of the two candidates of the run."""
    rows = read_front(RunFolder(folder)).rows
    return min(rows, key=lambda row: row.cost.macs)


@pytest.fixture
def run(finished_run, tmp_path):
    return runs.copy(finished_run[0], tmp_path)


def forget_steps(folder):
    """As if the compression had kept no pruned net."""
    for steps in (folder / "models").glob("compressed-*"):
        shutil.rmtree(steps)


def change_events(folder, kind, change):
    """Every recorded value of a kind, changed."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as db, db:
        for seq, value in db.execute(
            "SELECT seq, value FROM events WHERE kind = ?", (kind,)
        ).fetchall():
            changed = json.dumps(change(json.loads(value)))
            db.execute("UPDATE events SET value = ? WHERE seq = ?", (changed, seq))


def half_right(event):
    """A training's result as if every second validation sample were wrong."""
    right = unpack(event["correct"])
    return event | {"correct": pack(np.arange(len(right)) % 2 == 0)}


def forget_finals(folder):
    """As if only the rungs were trained, and no pruned net was kept."""
    forget_steps(folder)
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as db, db:
        db.execute("DELETE FROM events WHERE kind = 'rung' AND key LIKE '%final%'")
        db.execute("DELETE FROM events WHERE kind = 'plan' AND key LIKE 'final%'")


def test_another_limit_gives_a_whole_artifact_once_that_a_bare_onnxruntime_confirms(run):
    forget_steps(run.out)
    wanted = smaller(run.out)
    picked = pick(resumed(run.out), PickRequest(Limits(max_macs=wanted.cost.macs)))
    found = picked.outcome.verdict.int8
    assert picked.label == f"trial {wanted.number}"
    assert picked.outcome.artifact.is_relative_to(run.out / "picks")
    assert found.macs <= wanted.cost.macs
    assert {limit.name: limit.status for limit in picked.outcome.verdict.limits} == {
        "max_macs": "holds"
    }
    data = open_dataset(run.data, seed=run.seed)
    file = picked.outcome.artifact / "model.int8.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"pixels": data.pixels("test", (8, 8))})[0]
    assert found.accuracy == pytest.approx(np.mean(answers.argmax(1) == data.test.labels))
    before = runs.digests(run.out / "picks")
    with LedgerView(run.out / "ledger.db") as ledger:
        events = list(ledger.events())
    assert pick(resumed(run.out), PickRequest(Limits(max_macs=wanted.cost.macs))) == picked
    assert runs.digests(run.out / "picks") == before
    with LedgerView(run.out / "ledger.db") as ledger:
        assert list(ledger.events()) == events


def test_a_net_that_only_rungs_have_trained_is_trained_once_also_over_an_interruption(
    run, monkeypatch
):
    forget_finals(run.out)
    wanted = PickRequest(Limits(max_macs=smaller(run.out).cost.macs))
    trained, real = [], picking.run_task

    def counted(task, *more):
        trained.append(task)
        return real(task, *more)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(picking, "run_task", counted)
    with monkeypatch.context() as patch:
        patch.setattr(picking.stages, "compressed", stopped)
        with pytest.raises(KeyboardInterrupt):
            pick(resumed(run.out), wanted)
    with monkeypatch.context() as patch:
        patch.setattr(picking.stages, "exported", stopped)  # no need to verify once more
        with pytest.raises(KeyboardInterrupt):
            pick(resumed(run.out), wanted)
    assert [task.key for task in trained] == [f"{smaller(run.out).number}-pick"]
    assert sum(epochs for epochs, _ in trained[0].cycles) == 9
    (folder,) = (run.out / "picks").iterdir()
    assert Model.load(folder / "models" / "best").metrics["epochs"] == 9


def test_a_saved_step_of_the_compression_serves_where_no_trial_is_small_enough(run):
    folder = next((run.out / "models").glob("compressed-*"))
    best = Model.load(run.out / "models" / "best")
    step = best
    for width in best.arch.graph.widths:
        step = cut_channels(step, width.name, list(range(width.size // 2)))
    step.save(folder / "pruned-9")
    rungs = json.loads((folder / "ladder.json").read_text())
    rungs[1:-1] = [rungs[0] | {"name": "pruned-9", "arch": step.arch.hash}]
    (folder / "ladder.json").write_text(json.dumps(rungs))
    macs = step.arch.graph.macs
    picked = pick(resumed(run.out), PickRequest(Limits(max_macs=macs)))
    assert picked.label == "pruned-9 of the winner"
    assert picked.outcome.verdict.int8.macs == macs
    assert picked.outcome.verdict.reference.macs == best.arch.graph.macs


def test_limits_that_nothing_keeps_are_answered_with_what_would_fit(run):
    forget_steps(run.out)  # Where the smaller net won, a pruned step of it is smaller still.
    change_events(run.out, "rung", half_right)
    with pytest.raises(InfeasibleError) as caught:
        pick(resumed(run.out), PickRequest(Limits(max_macs=10)))
    option, value = caught.value.fix.split(" would fit")[0].split()
    assert option == "--max-macs"
    assert smaller(run.out).cost.macs <= float(value) <= 1.01 * smaller(run.out).cost.macs
    with pytest.raises(InfeasibleError, match="reaches 100"):
        pick(resumed(run.out), PickRequest(Limits(min_accuracy=1.0)))
    assert not (run.out / "picks").exists()


def test_a_budget_too_short_to_train_is_refused_with_one_that_is_not(run):
    forget_finals(run.out)
    wanted = PickRequest(Limits(max_macs=smaller(run.out).cost.macs))
    with pytest.raises(ConfigError, match="too short") as caught:
        pick(resumed(run.out, budget_seconds=0.01), wanted)
    assert "--budget" in caught.value.fix


def test_the_runs_own_limits_stay_where_no_other_is_stated():
    known = Limits(max_size_bytes=9000, min_accuracy=0.5)
    wanted = PickRequest(Limits(max_size_bytes=4000), "latency")
    assert wanted.over(known) == Limits(max_size_bytes=4000, min_accuracy=0.5)
    assert wanted.name == "size-bytes-4000-prefer-latency"


def test_without_a_search_there_is_nothing_to_pick(finished_run, tmp_path):
    config = dataclasses.replace(finished_run[0], out=tmp_path / "r")
    with picking.open_run(config, picking.silent):
        pass
    with pytest.raises(DataError, match="trained nothing"):
        pick(resumed(tmp_path / "r"), PickRequest(Limits(max_macs=10)))
