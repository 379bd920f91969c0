from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lepton_automl.cost import targets
from lepton_automl.search.proposals import portfolio
from lepton_automl.search.proposals.portfolio import KnownNet, affordable, distinct
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.trials import Trials
from tests.helpers.search import make_trial, result, small_space

TWO_SIZES = """
input = { resolution = [64, 16], example = [32, 32, 1] }
[stem]
out = [8, 16]
[train]
epochs = [9, 3]
[[candidate]]
name = "whole"
[[candidate]]
name = "half the side"
input.resolution = 16
[[candidate]]
name = "wide"
stem.out = 16
[[candidate]]
name = "brief"
train.epochs = 3
"""


def drawn(space, point, size, channels=1):
    given = {"size": size, "channels": channels, "classes": 3, "target": targets.load()}
    return space.sample(RandomTrial(0, dict(point)), **given)


@pytest.mark.parametrize(("side", "kept"), [(32, [0, 1, 2, 3]), (12, [0, 2, 3])])
def test_points_that_give_the_same_net_for_these_data_are_one(tmp_path, side, kept):
    space = small_space(tmp_path, TWO_SIZES)
    found = distinct(space.candidates, lambda trial: drawn(space, trial.params, (side, side)))
    assert found == [space.candidates[index] for index in kept]


def test_all_known_good_nets_of_the_default_space_differ_on_large_pictures():
    space = loader.load("general")
    nets = {drawn(space, point, (128, 128), 3)[0].hash for point in space.candidates}
    assert len(nets) == len(space.candidates)


@pytest.mark.parametrize(
    ("other", "name", "size", "channels"),
    [
        ("tiny", "quick", (28, 28), 1),
        ("tiny", "quick", (8, 8), 1),
        ("residual", "half", (32, 32), 3),
        ("residual", "resnet8", (28, 28), 1),
        ("mobile", "medium", (64, 64), 3),
        ("mobile", "medium", (120, 90), 3),
    ],
)
def test_the_default_space_begins_with_the_best_nets_of_the_others(other, name, size, channels):
    theirs = loader.load(other)
    point = theirs.candidates[theirs.candidate_names.index(name)]
    ours = loader.load("general")
    known = ours.candidates[ours.candidate_names.index(name)]
    assert drawn(ours, known, size, channels)[0] == drawn(theirs, point, size, channels)[0]


def test_with_much_time_all_nets_are_tried_and_with_little_the_first():
    nets = [KnownNet(work, 20) for work in (1.0, 9.0, 3.0, 5.0)]
    assert affordable(nets, 2, 1.0, 1e6, 1) == [0, 1, 2, 3]
    assert affordable(nets, 2, 1.0, 0.1, 1) == [0]
    assert affordable(nets, 2, 1.0, 0.0, 1) == [0]


@pytest.mark.parametrize("seconds", [10.0, 40.0, 60.0, 70.0, 100.0, 160.0, 400.0])
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("rung", [2, 9])
def test_first_rungs_take_a_third_at_most_and_half_a_recipe_fits(seconds, jobs, rung):
    """At one second a unit of work, recipes of twenty epochs."""
    works = (1.0, 9.0, 3.0, 5.0)
    kept = affordable([KnownNet(work, 20) for work in works], rung, 1.0, seconds, jobs)
    assert kept[0] == 0
    assert kept == sorted(kept)
    others = [works[index] for index in kept[1:]]
    if others:
        assert rung * sum(works[index] for index in kept) <= 0.3 * seconds * jobs
        assert 10 * max(others) <= 0.7 * seconds
    for index in set(range(4)) - set(kept):  # One more would be too long, or too many.
        before = sum(works[other] for other in kept if other < index)
        too_many = rung * (before + works[index]) > 0.3 * seconds * jobs
        assert too_many or 10 * works[index] > 0.7 * seconds


def test_the_decision_lists_what_each_net_reached_at_its_first_rung(tmp_path: Path):
    space = small_space(tmp_path, TWO_SIZES)
    trials = Trials()
    assert portfolio.decision(space, trials) is None
    for number, (index, right) in enumerate([(0, 100), (2, 150), (3, 120)]):
        point = dict(space.candidates[index])
        trials.add(dataclasses.replace(make_trial(number), params=point))
        trials.add_result(result(number, "0", right, epochs=2))
    trials.add_result(result(0, "1", 190, epochs=9))  # Later rungs do not count.
    found = portfolio.decision(space, trials)
    assert found is not None
    assert found.option == "--space"
    assert found.choice.endswith("begun with 3 known-good nets, the best wide")
    assert "after 2 epochs: whole 50.0%, wide 75.0%, brief 60.0%" in found.evidence
    assert found.evidence.endswith("not tried: half the side")
    assert found.certainty == "measured"
