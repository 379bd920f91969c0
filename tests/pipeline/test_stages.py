from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest

from lepton_automl.compress.pruning.cut import cut_channels
from lepton_automl.core.events import silent
from lepton_automl.errors import DataError
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import open_run
from lepton_automl.runs.ledger import recorded_decisions
from lepton_automl.search.finals.results import TrainingSpeed
from tests.helpers import runs

pytestmark = pytest.mark.usefixtures("children_answer_here")


@pytest.mark.parametrize(("refit", "steps"), [("off", []), ("auto", ["refit"]), ("on", ["refit"])])
def test_a_pruned_step_is_not_pruned_again(finished_run, tmp_path, refit, steps):
    config = runs.copy(finished_run[0], tmp_path)
    with open_run(config, silent) as run:
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, refit=refit))
        best, recipe = stages.winner(run)
        width = best.arch.graph.widths[0]
        step = cut_channels(best, width.name, list(range(width.size // 2)))
        alone = stages.compress(run, best, recipe, None, step=step)
        assert [step.name for step in alone.steps] == ["reference", *steps, "quantized"]
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
    # A long one also says at its end how much memory it took.
    assert any(event.message.endswith("models/best") for event in events)


def test_how_far_pruning_went_is_a_recorded_decision(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    with open_run(config, silent) as run:
        best, recipe = stages.winner(run)
        steps = stages.compress(run, best, recipe, None).steps
        stages.compress(run, best, recipe, None)
        (made,) = [each for each in recorded_decisions(run.ledger) if each.name == "pruning"]
    cuts = [step for step in steps if step.name.startswith("pruned")]
    kept = [step for step in cuts if step.is_accepted]
    assert made.choice.startswith(f"{len(kept)} of {len(cuts)} cuts kept" if kept else "no")
    assert made.option == "--max-drop"


def test_the_training_on_all_samples_is_complete_also_for_the_net_of_a_rung(finished_run, tmp_path):
    def epochs(of_winner):
        metrics = best.metrics | {"epochs": float(of_winner)}
        given = dataclasses.replace(best, metrics=metrics)
        monkeypatch.setattr(stages, "run_compression", lambda *args: made.append(args[1]) or result)
        stages.compress(run, given, recipe, None)
        return made[-1].refit_epochs, made[-1].least_refit_epochs

    made = []
    config = runs.copy(finished_run[0], tmp_path)
    with open_run(config, silent) as run, pytest.MonkeyPatch.context() as monkeypatch:
        best, recipe = stages.winner(run)
        result = stages.compress(run, best, recipe, None)
        monkeypatch.setattr(stages, "compressed_folder", lambda *_: finished)
        finished = run.folder.models / f"compressed-{best.digest[:8]}"
        complete = max(
            value for each in run.space.train_parameters("epochs") for value in each.values
        )
        assert epochs(1) == (complete, 1)
        assert epochs(10 * complete) == (10 * complete, math.ceil(complete / 2))


def test_a_training_on_all_samples_is_for_few_samples_or_few_groups(finished_run, tmp_path):
    def refits(refit="auto", count=30_000, groups=None):
        """The rule for as many samples, which are in `groups` groups."""
        samples = dataclasses.replace(
            run.dataset.train,
            labels=np.zeros(count - 10, np.int64),
            groups=None if groups is None else np.arange(count - 10) % groups,
        )
        rest = dataclasses.replace(
            run.dataset.validation,
            labels=np.zeros(10, np.int64),
            groups=None if groups is None else np.full(10, groups),
        )
        data = dataclasses.replace(run.dataset, train=samples, validation=rest)
        config = dataclasses.replace(run.config, refit=refit)
        return stages.refits(dataclasses.replace(run, config=config, dataset=data))

    with open_run(runs.copy(finished_run[0], tmp_path), silent) as run:
        assert not refits()
        assert refits("on")
        assert refits(count=19_999)
        assert not refits(count=20_000)
        assert not refits("off", count=500)
        assert refits(groups=18)
        assert not refits(groups=19)  # And one of the validation part.


def test_later_stages_have_the_time_that_the_winner_needs_at_its_own_speed(finished_run, tmp_path):
    config = dataclasses.replace(runs.copy(finished_run[0], tmp_path), budget_seconds=1000.0)
    with open_run(config, silent) as run, pytest.MonkeyPatch.context() as monkeypatch:
        inputs = stages.budget_inputs(run)
        assert inputs.refit_epochs
        found = []
        for speed in (None, TrainingSpeed(0.05, 60), TrainingSpeed(0.5, 60)):
            monkeypatch.setattr(stages, "winner_speed", lambda ledger, speed=speed: speed)
            found.append(stages._planned_stage_budget(run))
        samples = (inputs.train + inputs.validation) / inputs.train
        assert [round(each.refit, 6) for each in found[1:]] == [
            round(60 * seconds * samples, 6) for seconds in (0.05, 0.5)
        ]
        assert found[0].refit != found[1].refit


@pytest.fixture
def every_refit_is_kept(monkeypatch):
    """How well a net of the tests learns decides nothing."""
    monkeypatch.setattr("lepton_automl.compress.refit.balanced_mean", lambda *_: 0.5)


@pytest.mark.usefixtures("every_refit_is_kept")
def test_a_training_on_all_samples_is_a_recorded_decision_and_has_time(finished_run, tmp_path):
    config = dataclasses.replace(runs.copy(finished_run[0], tmp_path), budget_seconds=1000.0)
    with open_run(config, silent) as run:
        seconds = stages.stage_budget(run)(1.0, 20)
        share = len(run.dataset.validation) / len(run.dataset.train)
        (epochs,) = run.space.train_parameters("epochs")[0].values
        longest = max(epochs, 20)
        assert seconds["training on all samples"] == pytest.approx(longest * (1 + share))
        # A quarter of the budget at most, and nothing where that is not enough for half of them.
        assert "training on all samples" not in stages.stage_budget(run)(200.0, 20)
        assert stages.stage_budget(run)(30.0, 20)["training on all samples"] == 250.0
        never = dataclasses.replace(run, config=dataclasses.replace(config, refit="off"))
        assert "training on all samples" not in stages.stage_budget(never)(1.0, 20)
    with open_run(runs.copy(finished_run[0], tmp_path / "again"), silent) as run:
        best, recipe = stages.winner(run)
        shutil.rmtree(stages.compressed_folder(run, best))
        made = stages.compress(run, best, recipe, None, prunes=False)
        name = "training on all samples"
        (found,) = [each for each in recorded_decisions(run.ledger) if each.name == name]
    assert made.is_refit
    count = len(run.dataset.train) + len(run.dataset.validation)
    assert (found.certainty, found.option) == ("assumed", "--refit off")
    assert found.evidence.count(str(count)) == 1, "it is said once"
    assert f"on all {count} training and validation samples; " in found.evidence


@pytest.mark.usefixtures("every_refit_is_kept")
@pytest.mark.parametrize(
    ("refit", "most", "options"), [("auto", 0, ["--refit on"]), ("off", 20_000, []), ("on", 0, [])]
)
def test_only_what_no_option_states_is_a_decision(
    finished_run, tmp_path, monkeypatch, refit, most, options
):
    monkeypatch.setattr(stages, "REFIT_SAMPLES", most)
    monkeypatch.setattr(stages, "is_small", lambda *_: False)
    with open_run(runs.copy(finished_run[0], tmp_path), silent) as run:
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, refit=refit))
        best, recipe = stages.winner(run)
        shutil.rmtree(stages.compressed_folder(run, best))
        found: list = []
        monkeypatch.setattr(stages, "record_decision", lambda _, made: found.append(made))
        made = stages.compress(run, best, recipe, None, prunes=False)
    assert made.is_refit == (refit == "on")
    assert [d.option for d in found if d.name == "training on all samples"] == options


class Captured(Exception):
    pass


def test_steps_are_judged_on_the_validation_part_with_its_groups(
    finished_run, tmp_path, monkeypatch
):
    def capture(_, compression, __):
        seen.append(compression)
        raise Captured

    seen: list = []
    monkeypatch.setattr(stages, "run_compression", capture)
    config = runs.copy(finished_run[0], tmp_path)
    with open_run(config, silent) as run:
        validation = run.dataset.validation
        groups = np.arange(len(validation)) // 2
        dataset = dataclasses.replace(
            run.dataset, validation=dataclasses.replace(validation, groups=groups)
        )
        run = dataclasses.replace(run, dataset=dataset)
        best, recipe = stages.winner(run)
        with pytest.raises(Captured):
            stages.compress(run, best, recipe, None)
        pixels = dataset.pixels("validation", best.arch.input[:2])
    assert (seen[0].validation_groups == groups).all()
    assert (seen[0].held_out.data.pixels.numpy() == pixels).all()
    assert (seen[0].held_out.data.labels.numpy() == validation.labels).all()
