from __future__ import annotations

import dataclasses
from contextlib import closing, contextmanager

import pytest

from lepton_automl.candidates import Candidates
from lepton_automl.config import Limits, options_text
from lepton_automl.errors import InfeasibleError
from lepton_automl.events import silent
from lepton_automl.model import Model
from lepton_automl.pick import excess
from lepton_automl.search.quiet import Quiet
from lepton_automl.session import opened
from tests import runs


@contextmanager
def candidates(config, limits):
    with (
        opened(config, silent) as run,
        closing(Quiet(run.folder.path / "checkpoints")) as quiet,
    ):
        asked = dataclasses.replace(run.config, limits=limits)
        yield Candidates(dataclasses.replace(run, config=asked), quiet)


def test_all_trials_and_kept_steps_are_points_with_their_costs(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with candidates(config, Limits()) as found:
        points = found.legal()
    trials = {point.option.number: point for point in points if point.step is None}
    rows = {row.number: row for row in finished_run[1].found.rows}
    assert {n: p.option.cost.macs for n, p in trials.items()} == {
        n: row.cost.macs for n, row in rows.items()
    }
    for point in points:
        if point.step is not None:
            assert point.option.cost.macs == Model.load(point.step).arch.graph.macs
            assert point.trial == finished_run[1].found.number
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
    assert all(0 < point.option.cost.latency_ms < 1000 for point in points)


def test_an_epoch_of_a_larger_net_takes_longer(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with candidates(config, Limits()) as found:
        trials = found.trials
        small, large = sorted(trials, key=lambda number: trials[number].cost.macs)
        assert 0 < found.seconds_per_epoch(small) < found.seconds_per_epoch(large)
        kept = found.later(small, 100.0)
    assert 0 < kept.prove < 50
