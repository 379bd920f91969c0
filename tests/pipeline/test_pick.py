from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from contextlib import contextmanager

import numpy as np
import onnxruntime
import pytest

from lepton_automl.compress.pruning.cut import cut_channels
from lepton_automl.config import Limits, options_text
from lepton_automl.core.events import silent
from lepton_automl.data.opening import open_dataset
from lepton_automl.errors import ConfigError, DataError, InfeasibleError
from lepton_automl.models.model import Model
from lepton_automl.option_texts import seconds
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import open_run
from lepton_automl.pipeline.front import read_front
from lepton_automl.pipeline.pick import (
    PickRequest,
    pick,
    pick_candidates,
    stage_budget,
    within_limits,
)
from lepton_automl.runs.folder import RunFolder, configured
from lepton_automl.runs.ledger import LedgerView
from lepton_automl.runs.lock import RunLock
from lepton_automl.search.finals import train_to_end
from lepton_automl.search.finals.train_to_end import seconds_per_epoch
from lepton_automl.search.trials import read_trials
from lepton_automl.search.workers.task import pack, unpack
from tests.helpers import runs

pytestmark = pytest.mark.usefixtures("children_answer_here")


@contextmanager
def opened_with(config, limits):
    """The run with other limits, and its trials."""
    with open_run(config, silent) as run:
        changed = dataclasses.replace(run.config, limits=limits)
        yield dataclasses.replace(run, config=changed), read_trials(run.ledger)


def test_all_trials_and_accepted_steps_are_candidates_with_their_costs(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with opened_with(config, Limits()) as (context, trials):
        candidates = pick_candidates(context, trials)
    of_trials = {c.option.number: c for c in candidates if c.step is None}
    rows = {row.number: row for row in finished_run[1].search_result.rows}
    assert {n: c.option.cost.macs for n, c in of_trials.items()} == {
        n: row.cost.macs for n, row in rows.items()
    }
    for candidate in candidates:
        if candidate.step is not None:
            assert candidate.option.cost.macs == Model.load(candidate.step).arch.graph.macs
            assert candidate.trial == finished_run[1].search_result.number
    assert len({candidate.option.number for candidate in candidates}) == len(candidates)


def test_candidates_beyond_the_limits_are_left_out_and_the_nearest_is_named(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with opened_with(config, Limits()) as (context, trials):
        candidates = pick_candidates(context, trials)
    sizes = sorted(candidate.option.cost.size_bytes for candidate in candidates)
    limits = Limits(max_size_bytes=sizes[-1] - 1)
    feasible = within_limits(candidates, limits, config.out)
    assert feasible == [c for c in candidates if c.option.cost.size_bytes < sizes[-1]]
    with pytest.raises(InfeasibleError, match="size at most 100 B") as caught:
        within_limits(candidates, Limits(max_size_bytes=100), config.out)
    assert options_text({"max_size_bytes": sizes[0]}) in caught.value.fix


def test_a_missing_latency_is_measured_for_the_pick(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with opened_with(config, Limits(max_latency_ms=1000.0)) as (context, trials):
        candidates = pick_candidates(context, trials)
    assert all(candidate.option.cost.latency_ms > 0 for candidate in candidates)


def test_an_epoch_of_a_larger_net_takes_longer(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with opened_with(config, Limits()) as (context, trials):
        small, large = sorted(trials, key=lambda number: trials[number].cost.macs)
        request = stages.search_request(context)
        assert seconds_per_epoch(request, trials, small) > 0
        assert seconds_per_epoch(request, trials, small) < seconds_per_epoch(request, trials, large)
        reserved = stage_budget(context, trials, small, 100.0)
    assert 0 < reserved.verify < 50


def resumed(folder, **changes):
    return configured(RunFolder(folder), **changes)


def smaller(folder):
    """The cheaper of the two trials of the run."""
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
    with runs.changed_ledger(folder) as db:
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
    with runs.changed_ledger(folder) as db:
        db.execute("DELETE FROM events WHERE kind = 'rung' AND key LIKE '%final%'")
        db.execute("DELETE FROM events WHERE kind = 'plan' AND key LIKE 'final%'")


def test_another_limit_gives_an_artifact_that_onnxruntime_confirms(run):
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
    logits = session.run(None, {"pixels": data.pixels("test", (8, 8))})[0]
    assert found.accuracy == pytest.approx(np.mean(logits.argmax(1) == data.test.labels))
    before = runs.digests(run.out / "picks")
    with LedgerView(run.out / "ledger.db") as ledger:
        events = list(ledger.events())
    assert pick(resumed(run.out), PickRequest(Limits(max_macs=wanted.cost.macs))) == picked
    assert runs.digests(run.out / "picks") == before
    with LedgerView(run.out / "ledger.db") as ledger:
        assert list(ledger.events()) == events


def test_a_trial_without_a_final_training_is_trained_once_also_after_interruptions(
    run, monkeypatch
):
    forget_finals(run.out)
    wanted = PickRequest(Limits(max_macs=smaller(run.out).cost.macs))
    trained, real = [], train_to_end.run_task

    def counting(task, *more):
        trained.append(task)
        return real(task, *more)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_to_end, "run_task", counting)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "compress", stopped)
        with pytest.raises(KeyboardInterrupt):
            pick(resumed(run.out), wanted)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "export_and_verify", stopped)  # no need to verify once more
        with pytest.raises(KeyboardInterrupt):
            pick(resumed(run.out), wanted)
    assert [task.key for task in trained] == [f"{smaller(run.out).number}-pick"]
    assert sum(epochs for epochs, _ in trained[0].cycles) == runs.EPOCHS
    (folder,) = (run.out / "picks").iterdir()
    assert Model.load(folder / "models" / "best").metrics["epochs"] == runs.EPOCHS


def test_an_accepted_pruning_step_is_picked_where_no_trial_is_small_enough(run):
    folder = next((run.out / "models").glob("compressed-*"))
    best = Model.load(run.out / "models" / "best")
    step = best
    for width in best.arch.graph.widths:
        step = cut_channels(step, width.name, list(range(width.size // 2)))
    step.save(folder / "pruned-9")
    steps = json.loads((folder / "steps.json").read_text())
    steps[1:-1] = [steps[0] | {"name": "pruned-9", "arch": step.arch.hash}]
    (folder / "steps.json").write_text(json.dumps(steps))
    macs = step.arch.graph.macs
    picked = pick(resumed(run.out), PickRequest(Limits(max_macs=macs)))
    assert picked.label == "pruned-9 of the winner"
    assert picked.outcome.verdict.int8.macs == macs
    assert picked.outcome.verdict.reference.macs == best.arch.graph.macs


def test_infeasible_limits_are_reported_with_those_that_would_fit(run):
    forget_steps(run.out)  # Where the smaller net won, a pruned step of it is smaller still.
    change_events(run.out, "rung", half_right)
    with pytest.raises(InfeasibleError) as caught:
        pick(resumed(run.out), PickRequest(Limits(max_macs=10)))
    option, value = caught.value.fix.split(" would fit")[0].split()
    assert option == "--max-macs"
    assert smaller(run.out).cost.macs <= float(value) <= 1.01 * smaller(run.out).cost.macs
    with pytest.raises(InfeasibleError, match="reaches an accuracy of 100"):
        pick(resumed(run.out), PickRequest(Limits(min_accuracy=1.0)))
    assert not (run.out / "picks").exists()


def test_a_budget_too_short_to_train_is_refused_with_one_that_is_not(run, monkeypatch):
    forget_finals(run.out)
    wanted = PickRequest(Limits(max_macs=smaller(run.out).cost.macs))
    with pytest.raises(ConfigError, match="not enough time") as caught:
        pick(resumed(run.out, budget_seconds=0.01), wanted)
    stated = re.search(r"give --budget (\S+),", caught.value.fix)
    assert stated is not None

    def reached(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "compress", reached)
    with pytest.raises(KeyboardInterrupt):
        pick(resumed(run.out, budget_seconds=seconds(stated[1])), wanted)


def test_a_budget_counts_from_the_start_of_the_command(run):
    forget_finals(run.out)
    wanted = PickRequest(Limits(max_macs=smaller(run.out).cost.macs))
    late = dataclasses.replace(
        resumed(run.out, budget_seconds=1e3), started=time.monotonic() - 1100
    )
    with pytest.raises(ConfigError, match="0 s are left"):
        pick(late, wanted)


def test_the_folder_of_a_pick_is_not_that_of_another_command_or_run(run, tmp_path):
    wanted = PickRequest(Limits(), "size", tmp_path / "picked")
    with RunLock(tmp_path / "picked"), pytest.raises(ConfigError, match="another command works"):
        pick(resumed(run.out), wanted)
    (tmp_path / "picked" / "run.toml").write_text("")
    for out in (tmp_path / "picked", run.out):
        with pytest.raises(ConfigError, match="holds a run, a pick needs a folder of its own"):
            pick(resumed(run.out), dataclasses.replace(wanted, out=out))
    assert {path.name for path in (tmp_path / "picked").iterdir()} == {"run.toml", "ledger.lock"}


def test_unfinished_files_of_a_killed_pick_go_and_files_of_the_user_stay(
    monkeypatch, run, tmp_path
):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("lepton_automl.pipeline.pick._ship", stop)
    left = tmp_path / "picked" / "checkpoints" / "00000-final-0" / ".arch.json.7.tmp"
    chart = tmp_path / "picked" / ".compression.svg.7.tmp"
    own = tmp_path / "picked" / "notes" / ".list.tmp"
    for path in (left, own, chart):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(KeyboardInterrupt):
        pick(resumed(run.out), PickRequest(Limits(), "size", tmp_path / "picked"))
    assert (left.exists(), chart.exists(), own.exists()) == (False, False, True)


def test_the_runs_own_limits_stay_where_no_other_is_stated():
    known = Limits(max_size_bytes=9000, min_accuracy=0.5)
    wanted = PickRequest(Limits(max_size_bytes=4000), "latency")
    assert wanted.over(known) == Limits(max_size_bytes=4000, min_accuracy=0.5)
    assert wanted.name == "size-bytes-4000-prefer-latency"


def test_without_a_search_there_is_nothing_to_pick(finished_run, tmp_path):
    config = dataclasses.replace(finished_run[0], out=tmp_path / "r")
    with open_run(config, silent):
        pass
    with pytest.raises(DataError, match="trained nothing"):
        pick(resumed(tmp_path / "r"), PickRequest(Limits(max_macs=10)))
