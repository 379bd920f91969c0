from __future__ import annotations

import dataclasses

import pytest

from lepton_automl.compress.pruning.cut import cut_channels
from lepton_automl.core.events import silent
from lepton_automl.errors import DataError
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import opened
from tests.helpers import runs


def test_a_step_of_the_ladder_is_quantized_as_it_is(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with opened(config, silent) as session:
        best, recipe = stages.winner(session)
        width = best.arch.graph.widths[0]
        step = cut_channels(best, width.name, list(range(width.size // 2)))
        alone = stages.compressed(session, best, recipe, None, step=step)
        assert [step.name for step in alone.steps] == ["reference", "quantized"]
        assert alone.int8.arch == step.arch
        assert stages.exported(session, step).verdict.int8.macs == step.arch.graph.macs


def test_without_a_winner_there_is_nothing_to_compress(finished_run, tmp_path):
    config = dataclasses.replace(finished_run[0], out=tmp_path / "empty")
    with opened(config, silent) as session, pytest.raises(DataError, match="no winner yet"):
        stages.winner(session)


def test_later_stages_ask_for_more_of_a_larger_budget_and_of_slower_nets(finished_run, tmp_path):
    config = dataclasses.replace(finished_run[0], out=tmp_path / "r", budget_seconds=1000.0)
    with opened(config, silent) as session:
        quick, slow = (sum(stages.later(session)(each, 20).values()) for each in (0.1, 2.0))
        assert quick < slow < 500.0
        work = stages.search_work(session, stages.later(session))
        assert sum(work.later(0.1, 20).values()) == quick
        assert stages.search_work(session).later(0.1, 20) == {}


def test_who_stops_a_run_is_told_what_is_there(finished_run):
    told = []
    with (
        opened(finished_run[0], told.append) as session,
        pytest.raises(KeyboardInterrupt),
        stages.telling_what_is_there(session),
    ):
        raise KeyboardInterrupt
    assert told[-1].message.endswith("models/best")
