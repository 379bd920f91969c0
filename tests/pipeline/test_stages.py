from __future__ import annotations

import dataclasses

import pytest

from lepton_automl.compress.pruning.cut import cut_channels
from lepton_automl.core.events import silent
from lepton_automl.errors import DataError
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import open_run
from tests.helpers import runs


def test_a_pruned_step_is_only_quantized(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with open_run(config, silent) as run:
        best, recipe = stages.winner(run)
        width = best.arch.graph.widths[0]
        step = cut_channels(best, width.name, list(range(width.size // 2)))
        alone = stages.compress(run, best, recipe, None, step=step)
        assert [step.name for step in alone.steps] == ["reference", "quantized"]
        assert alone.int8.arch == step.arch
        assert stages.export_and_verify(run, step).verdict.int8.macs == step.arch.graph.macs


def test_without_a_winner_there_is_nothing_to_compress(finished_run, tmp_path):
    config = dataclasses.replace(finished_run[0], out=tmp_path / "empty")
    with open_run(config, silent) as run, pytest.raises(DataError, match="no winner yet"):
        stages.winner(run)


def test_slower_nets_reserve_more_time_for_the_stages_after_the_search(finished_run, tmp_path):
    config = dataclasses.replace(finished_run[0], out=tmp_path / "r", budget_seconds=1000.0)
    with open_run(config, silent) as run:
        quick, slow = (sum(stages.stage_budget(run)(each, 20).values()) for each in (0.1, 2.0))
        assert quick < slow < 500.0
        request = stages.search_request(run, stages.stage_budget(run))
        assert sum(request.stage_budget(0.1, 20).values()) == quick
        assert stages.search_request(run).stage_budget(0.1, 20) == {}


def test_an_interrupted_run_reports_where_its_best_net_is(finished_run):
    events = []
    with (
        open_run(finished_run[0], events.append) as run,
        pytest.raises(KeyboardInterrupt),
        stages.naming_best_net_on_interrupt(run),
    ):
        raise KeyboardInterrupt
    assert events[-1].message.endswith("models/best")
