from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from lepton_automl.compress import acceptance, decisions, loop, steps
from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.evaluation import int8_file, validation_accuracy
from lepton_automl.compress.loop import compress
from lepton_automl.compress.pruning.prune import PruningAttempt
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.errors import DataError
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.recipe import Recipe
from tests.helpers.killed_writes import Killed, until_done
from tests.helpers.nets import random_model, random_pixels


def setup(**more):
    model = random_model(chain((8, 8, 1), [Stem(16), Conv(24), Head()], 3), 1)
    pixels = random_pixels(model.arch, 96, 1)
    with torch.no_grad():
        labels = model.network()(model.preprocessing.apply(pixels)).argmax(1)
    data = LabelledTensors(pixels, labels)
    settings = {"limits": Limits(max_drop=100.0), "epochs": 4, **more}
    recipe = Recipe(batch_size=32, augment=0.0)
    return model, CompressionContext(
        data, data, model, target=targets.load(), recipe=recipe, **settings
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The compression of `setup()`, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return compress(*setup(), folder), folder


def test_a_ladder_leaves_a_smaller_int8_model_and_the_table_of_its_steps(whole):
    model, context = setup()
    made, folder = whole
    assert made.reference.digest == model.digest
    assert made.int8.arch == made.pruned_float.arch
    assert made.int8.arch.graph.macs < model.arch.graph.macs
    assert [made.steps[0].name, made.steps[-1].name] == ["reference", "quantized"]
    assert made.steps[-1].size_bytes == len(int8_file(made.int8))
    assert made.steps[-1].accuracy == validation_accuracy(made.int8, context)
    pictures = json.loads((folder / steps.CALIBRATION).read_text())["training_pictures"]
    assert pictures == sorted(set(pictures))


def test_two_ladders_are_equal_bit_for_bit_and_every_step_is_an_event(tmp_path, whole):
    told = []
    model, context = setup(emit=told.append)
    first, second = compress(model, context, tmp_path), whole[0]
    assert int8_file(first.int8) == int8_file(second.int8)
    assert first.steps == second.steps
    assert [event.data["name"] for event in told if "name" in event.data] == [
        step.name for step in first.steps[1:]
    ]


def test_a_ladder_killed_at_any_write_goes_on_to_the_same_end(tmp_path, monkeypatch, whole):
    model, context = setup()
    whole, _ = whole
    made, tries = until_done(
        monkeypatch,
        loop.files,
        lambda: compress(model, context, tmp_path / "killed"),
        (0, 2, 5, 3, 4, 6, 1, 7, 100),
    )
    assert tries > 3
    assert int8_file(made.int8) == int8_file(whole.int8)
    assert made.steps == whole.steps


def test_a_finished_ladder_is_read_and_not_climbed_again(monkeypatch, whole):
    model, context = setup()
    made, folder = whole
    monkeypatch.setattr(loop, "quantize_model", None)
    monkeypatch.setattr(loop, "prune", None)
    assert compress(model, context, folder).steps == made.steps
    assert CompressionResult.load(folder).steps == made.steps


def test_an_unfinished_or_damaged_ladder_is_said_to_be_so(tmp_path):
    with pytest.raises(DataError, match="no finished compression"):
        CompressionResult.load(tmp_path)
    (tmp_path / steps.STEPS_FILE).write_text("[{]")
    with pytest.raises(DataError, match="damaged"):
        CompressionResult.load(tmp_path)
    for key, value in (("drop", []), ("accuracy", "0.9"), ("tries", None), ("is_accepted", 1)):
        record = dataclasses.asdict(step("quantized", 0.1, 0.2, accepted=True, tries=1))
        (tmp_path / steps.STEPS_FILE).write_text(json.dumps([record | {key: value}]))
        with pytest.raises(DataError, match=rf"damaged: .*{key}"):
            CompressionResult.load(tmp_path)


def test_where_the_time_is_over_what_is_there_is_quantized(tmp_path):
    model, context = setup(seconds_left=lambda: 2.0, quantize_seconds=3.0)
    made = compress(model, context, tmp_path)
    assert [step.name for step in made.steps] == ["reference", "quantized"]


def smaller_by_half(model, context, share, known, tries, fold_nets):
    """As `prune`, without training: one cut, and then no further one."""
    small = random_model(chain((8, 8, 1), [Stem(8), Conv(16), Head()], 3), 2)
    if small.arch.hash in known:
        return PruningAttempt(None, False, "no further cut reduces the cost")
    return PruningAttempt(small, True, "half", 1, acceptance.judge_pruned(small, context, tries))


def test_a_compression_that_had_no_time_to_prune_goes_on_where_there_is_some(tmp_path, monkeypatch):
    model, short = setup(seconds_left=lambda: 2.0, quantize_seconds=3.0)
    first = compress(model, short, tmp_path)
    assert first.steps[0].is_short_of_time
    assert "larger --budget continues it" in decisions.pruning_decision(first.steps, short).evidence
    assert compress(model, short, tmp_path).steps == first.steps

    def interrupt(*given):
        raise KeyboardInterrupt

    longer = dataclasses.replace(short, seconds_left=lambda: 100.0)
    monkeypatch.setattr(loop, "prune", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compress(model, longer, tmp_path)
    monkeypatch.setattr(loop, "prune", smaller_by_half)
    made = compress(model, longer, tmp_path)
    rows = [(step.name, step.is_accepted) for step in made.steps]
    assert rows == [
        ("reference", True),
        ("quantized", False),
        ("pruned-2", True),
        ("quantized", True),
    ]
    assert made.int8.arch.hash == made.steps[2].arch
    assert made.int8.arch.graph.macs < first.int8.arch.graph.macs
    assert not made.steps[0].is_short_of_time
    # There is no further cut, so more time changes nothing.
    monkeypatch.setattr(loop, "prune", None)
    endless = dataclasses.replace(short, seconds_left=None)
    again = compress(model, endless, tmp_path)
    assert (again.steps, again.int8.digest) == (made.steps, made.int8.digest)


def test_an_earlier_judgement_of_an_int8_file_stays_one_of_the_tries(tmp_path, monkeypatch):
    times = iter([100.0, 0.0, *[100.0] * 100])
    model, context = setup(seconds_left=lambda: next(times))
    monkeypatch.setattr(loop, "prune", smaller_by_half)
    first = compress(model, context, tmp_path)  # One cut, then the time is used up.
    assert [step.tries for step in first.steps] == [0, 1, 2]
    monkeypatch.setattr(loop, "_next_cut", lambda *given: 0.25)
    made = compress(model, context, tmp_path)
    assert [step.tries for step in made.steps] == [0, 1, 2, 3]


def test_a_recovery_that_meets_the_deadline_is_dropped_and_the_net_before_it_quantized(tmp_path):
    times = iter([100.0] * 6 + [0.0] * 1000)
    model, context = setup(seconds_left=lambda: next(times))
    made = compress(model, context, tmp_path)
    assert [step.name for step in made.steps] == ["reference", "quantized"]
    assert made.int8.arch == model.arch


def test_where_limits_are_the_aim_pruning_ends_as_soon_as_they_are_kept(tmp_path, whole):
    everything = whole[0].steps
    before = everything[0].size_bytes
    limits = Limits(max_drop=100.0, max_size_bytes=round(0.8 * before))
    model, context = setup(is_aim=True, limits=limits)
    told = []
    context = dataclasses.replace(context, emit=lambda event: told.append(event.message))
    steps = compress(model, context, tmp_path / "some").steps
    within = [step.size_bytes <= 0.8 * before for step in steps]
    assert within == [False] * (len(steps) - 2) + [True, True]
    assert steps[-1].size_bytes > everything[-1].size_bytes
    assert "no more pruning: the net is within the limits" in told


def test_a_net_within_the_limits_it_should_reach_is_only_quantized(tmp_path):
    model, context = setup(is_aim=True, limits=Limits(max_drop=100.0, max_size_bytes=10**6))
    assert [step.name for step in compress(model, context, tmp_path).steps] == [
        "reference",
        "quantized",
    ]


def test_the_net_before_a_withdrawn_one_ships_also_after_a_kill(tmp_path, monkeypatch, whole):
    model, context = setup()
    whole, _ = whole
    assert [step.tries for step in whole.steps] == list(range(len(whole.steps)))
    last = [step.name for step in whole.steps if step.is_accepted][-2]
    own, seen = loop.judge_end, []

    def strict(made, given, tries, *more):
        """Reject the int8 file of the smallest net."""
        judgement = own(made, given, tries, *more)
        seen.append(tries)
        is_last = made.arch == whole.int8.arch
        return dataclasses.replace(judgement, max_bound=-1.0) if is_last else judgement

    monkeypatch.setattr(loop, "judge_end", strict)
    made = compress(model, context, tmp_path / "strict")
    (withdrawn,) = [step for step in made.steps if step.is_withdrawn]
    assert (withdrawn.name, withdrawn.is_accepted) == (last, False)
    assert "withdrawn: its int8 file" in withdrawn.why
    assert seen == [whole.steps[-1].tries, whole.steps[-1].tries + 1]
    assert made.int8.arch.hash == [step.arch for step in made.steps if step.is_accepted][-2]
    assert made.int8.arch != whole.int8.arch

    def dying(*_):
        raise Killed

    quantize = loop.quantize_model
    calls = iter([quantize, dying])
    monkeypatch.setattr(loop, "quantize_model", lambda *given: next(calls)(*given))
    with pytest.raises(Killed):
        compress(model, context, tmp_path / "killed")
    monkeypatch.setattr(loop, "quantize_model", quantize)
    again = compress(model, context, tmp_path / "killed")
    assert again.steps == made.steps
    assert int8_file(again.int8) == int8_file(made.int8)


def test_where_cost_limits_are_the_aim_nothing_is_withdrawn(tmp_path, monkeypatch):
    model, context = setup(is_aim=True, limits=Limits(max_drop=100.0, max_size_bytes=2500))
    own = loop.judge_end
    monkeypatch.setattr(
        loop, "judge_end", lambda *given: dataclasses.replace(own(*given), limit=-1e9)
    )
    assert not [s for s in compress(model, context, tmp_path).steps if s.is_withdrawn]


def step(name, drop, bound, *, accepted, tries, weight=0.8, size=8000):
    judged = {"drop": drop, "expected_drop": drop, "drop_bound": bound, "drop_weight": weight}
    return steps.StepRecord(
        name, 0.9, name, size, 1, None, accepted, f"why {name}", tries=tries, **judged
    )


def test_samples_that_judge_the_end_only_are_listed(monkeypatch):
    _, context = setup(limits=Limits())
    assert context.last is None
    assert decisions.end_check_decision(context) is None
    monkeypatch.setattr("lepton_automl.compress.context.MIN_PICTURES_TO_SPLIT", 90)
    _, context = setup(limits=Limits())
    made = decisions.end_check_decision(context)
    kept = len(context.last.data)
    assert kept + len(context.acceptance.data) == 96
    assert (
        f"{96 - kept} validation samples accept or reject each step, {kept} others" in made.choice
    )


def test_the_decision_names_what_was_kept_and_why_it_stopped():
    _, context = setup(limits=Limits())
    start = steps.StepRecord("reference", 0.9, "a", 10_000, 1, None, True, "start")
    kept = step("pruned-1", 0.1, 0.6, accepted=True, tries=1)
    lost = step("pruned-2", 1.4, 2.0, accepted=False, tries=2)
    end = step("quantized", 0.2, 0.7, accepted=True, tries=3)
    found = decisions.pruning_decision([start, kept, lost, end], context)
    assert (found.name, found.certainty, found.option) == ("pruning", "measured", "--max-drop")
    assert found.choice == "1 of 2 cuts kept, 10.0 to 8.0 kB"
    assert "loses 0.20 points on 96 validation samples, expected 0.20, at most 0.70" in (
        found.evidence
    )
    assert "why pruned-2" in found.evidence
    end = step("quantized", 0.2, 0.7, accepted=True, tries=3, weight=0.2)
    assert decisions.pruning_decision([start, kept, lost, end], context).certainty == "assumed"
    end = step("quantized", None, None, accepted=True, tries=0)
    assert decisions.pruning_decision([start, lost, end], context).certainty == "measured"
    unsure = step("pruned-1", 0.1, 1.6, accepted=False, tries=1)
    found = decisions.pruning_decision([start, unsure, end], context)
    assert (found.choice, found.certainty) == ("no pruning", "assumed")
    assert "cannot tell" in found.evidence


def test_data_of_one_group_are_not_pruned_and_it_is_said(tmp_path):
    told = []
    model, context = setup(limits=Limits(), emit=told.append)
    context = dataclasses.replace(context, validation_groups=np.zeros(96, np.int64))
    made = compress(model, context, tmp_path)
    assert [step.name for step in made.steps] == ["reference", "quantized"]
    assert any("all validation samples are of one group" in event.message for event in told)
    found = decisions.pruning_decision(made.steps, context)
    assert (found.choice, found.certainty) == ("no pruning", "assumed")
    assert "one group" in found.evidence
    aim = dataclasses.replace(context, is_aim=True, limits=Limits(max_size_bytes=2500))
    assert len(compress(model, aim, tmp_path / "aim").steps) > 2
