from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from lepton_automl.config import LIMITS, Limits
from lepton_automl.core.events import Event
from lepton_automl.core.machine import Machine
from lepton_automl.cost import latency
from lepton_automl.cost.cost import Cost, static_cost, violations
from lepton_automl.errors import InfeasibleError
from lepton_automl.runs.ledger import EventKind
from lepton_automl.search.objectives import load
from lepton_automl.search.proposals import proposer as module
from lepton_automl.search.proposals.proposer import CandidateEstimator, Proposer, label_bytes
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space.draw import RandomTrial as GivenPoint
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.trials import Trial, Trials, read_trials
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from tests.helpers.search import result, search_request, small_space

WIDE = """
[input]
resolution = "native"
[stem]
out = { low = 8, high = 64, step = 8 }
[[stage]]
layer = "conv"
out = { low = 8, high = 64, step = 8 }
[[stage]]
layer = "conv"
out = { low = 8, high = 64, step = 8 }
[train]
lr = 0.05
"""
SMALLEST_MACS = 8 * 8 * (8 * 9 + 2 * 8 * 8 * 9) + 8 * 3
"""Of `WIDE` for 8x8 pictures of three classes: three 3x3 convolutions of 8 channels, a head."""
NARROW = """
[input]
resolution = "native"
[stem]
out = [8, 16]
[[stage]]
layer = "conv"
out = [8, 16]
[train]
lr = 0.05
"""
UNITS = {
    "--max-size-kb": ("max_size_bytes", 1000),
    "--max-macs": ("max_macs", 1),
    "--max-ram-kb": ("max_peak_ram_bytes", 1000),
}


def proposed(folder: Path, count: int, text: str, **limits: Any) -> list[Trial]:
    job = search_request(folder, limits=Limits(**limits), space=small_space(folder.parent, text))
    trials, found = Trials(), list[Trial]()
    objectives = [load(name) for name in job.config.objectives]
    proposer = Proposer(job, trials, objectives, MeasurementLock(folder / "locks"))
    try:
        for number in range(count):
            candidate = proposer.add()
            if candidate is None:
                break
            found.append(candidate)
            trials.add_result(result(number, "0", 150))
            proposer.record(number)
    finally:
        job.ledger.close()
    return found


def test_every_candidate_keeps_the_limits_and_none_comes_twice(tmp_path: Path) -> None:
    found = proposed(tmp_path / "run", 12, WIDE, max_macs=700_000)
    assert len(found) == 12
    assert all(candidate.cost.macs <= 700_000 for candidate in found)
    assert len({(c.arch, c.recipe) for c in found}) == 12


def test_a_limit_that_almost_nothing_meets_is_met_by_repairing(tmp_path: Path) -> None:
    found = proposed(tmp_path / "run", 3, WIDE, max_macs=SMALLEST_MACS)
    assert [candidate.cost.macs for candidate in found] == [SMALLEST_MACS]


def test_a_space_that_is_used_up_ends_the_proposals(tmp_path: Path) -> None:
    found = proposed(tmp_path / "run", 10, NARROW)
    assert len(found) == 4


def test_the_smallest_named_is_the_smallest_there_is(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError) as caught:
        proposed(tmp_path / "run", 1, WIDE, max_macs=100)
    assert caught.value.fix.startswith(f"--max-macs {SMALLEST_MACS} would fit")


def combination(seed: int, pool: list[Cost]) -> dict[str, int]:
    """Some of the limits that no clock decides, from what nothing meets to what half do."""
    rng, stated = random.Random(seed), {}
    for limit, _ in rng.sample(list(UNITS.values()), rng.randint(1, 3)):
        values = sorted(LIMITS[limit].measured(cost) for cost in pool)
        place = rng.uniform(-0.3, 0.5)
        value = values[int(place * len(values))] if place > 0 else (1 + place) * values[0]
        stated[limit] = round(value)
    return stated


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_every_combination_of_limits_is_answered(tmp_path: Path, name: str) -> None:
    text = (Path("search_spaces") / f"{name}.toml").read_text()
    found = small_space(tmp_path, text)
    pool = [static_cost(found.example_arch(GivenPoint(seed)), 64) for seed in range(30)]
    for seed in range(4):
        stated = combination(seed, pool)
        try:
            candidates = proposed(tmp_path / f"run{seed}", 1, text, **stated)
        except InfeasibleError as error:
            for option, value in re.findall(r"(--max-[a-z-]+) ([0-9.]+)", error.fix):
                limit, unit = UNITS[option]
                stated[limit] = round(float(value) * unit)
            candidates = proposed(tmp_path / f"again{seed}", 1, text, **stated)
        assert len(candidates) == 1
        assert not violations(candidates[0].cost, Limits(**stated))


def test_known_good_nets_beyond_a_limit_are_shrunk_and_come_first(tmp_path: Path) -> None:
    known = """
[[candidate]]
name = "wide"
stem = { out = 64 }
stage1 = { out = 64 }
stage2 = { out = 64 }
[[candidate]]
name = "narrow"
stem = { out = 16 }
"""
    first, second = proposed(tmp_path, 2, WIDE + known, max_size_bytes=30_000)
    assert first.cost.size_bytes <= 30_000
    assert first.cost.weight_bytes > 15_000
    assert max(first.arch.graph.widths, key=lambda w: w.size).size == 64
    assert second.params["stem.out"] == 16
    assert [len(one.rejected) for one in (first, second)] == [1, 0]


def a_proposer(job: SearchRequest, trials: Trials) -> Proposer:
    return Proposer(
        job,
        trials,
        [load(n) for n in job.config.objectives],
        MeasurementLock(job.folder.checkpoints),
    )


@pytest.mark.parametrize("limit", [9_000, 30_000, 1_000_000])
@pytest.mark.parametrize("narrow", [48, 8])
def test_known_nets_have_the_sizes_of_the_trials_that_are_made_of_them(
    tmp_path: Path, narrow: int, limit: int
) -> None:
    """Else the time is planned for nets that are never trained, and little is left to search."""
    known = f"""
[[candidate]]
name = "wide"
stem = {{ out = 64 }}
stage1 = {{ out = 64 }}
stage2 = {{ out = 64 }}
[[candidate]]
name = "narrow"
stem = {{ out = {narrow} }}
stage1 = {{ out = {narrow} }}
stage2 = {{ out = {narrow} }}
"""
    space = small_space(tmp_path, WIDE + known)
    job = search_request(tmp_path / "run", space=space, limits=Limits(max_size_bytes=limit))
    proposer = a_proposer(job, Trials())
    first = proposer.add()
    works = [net.work for net in proposer.known_nets()]
    second = proposer.add()
    job.ledger.close()
    assert first is not None
    assert second is not None
    samples = len(job.dataset.train)
    assert works == [work_of(trial.cost.macs, samples, 1) for trial in (first, second)]


def test_the_first_proposals_are_the_known_good_ones(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run"), Trials()
    first = a_proposer(job, trials).add()
    job.ledger.close()
    assert first is not None
    assert first.params["stem.out"] == 8
    assert first.params["stage1.out"] == 16
    assert trials[0] is first


def test_a_newcomer_is_in_the_ledger_before_anybody_trains_it(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run"), Trials()
    source = a_proposer(job, trials)
    for number in range(3):
        source.add()
        trials.add_result(result(number, "0", 100))
        source.record(number)
    assert list(job.ledger.all(EventKind.TRIAL)) == ["0", "1", "2"]
    assert len(read_trials(job.ledger)) == 3
    job.ledger.close()


def test_after_many_rejections_a_message_names_the_violated_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY_REJECTED", 1)
    told: list[Event] = []
    job = search_request(tmp_path / "run", limits=Limits(max_macs=14_000), emit=told.append)
    trials = Trials()
    a_proposer(job, trials).add()
    job.ledger.close()
    assert trials[0].cost.macs <= 14_000
    assert "few nets are within the limits, 0 of 1 drawn" in told[0].message
    assert "rejected by --max-macs 100%" in told[0].message
    assert "; the nearest exceeds them by" in told[0].message


def test_no_proposal_becomes_a_trial_after_the_deadline(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run"), Trials()
    proposer = a_proposer(job, trials)
    assert proposer.add(deadline=-math.inf) is None
    assert not proposer.exhausted
    assert len(trials) == len(read_trials(job.ledger)) == 0
    assert proposer.seconds > 0
    assert proposer.add() is trials[0]
    job.ledger.close()


def test_long_class_names_make_files_longer() -> None:
    assert label_bytes(["0", "1"]) < label_bytes(["aeroplane", "dog"])
    assert label_bytes(["aeroplane", "dog"]) - label_bytes(["0", "1"]) == 10


def test_on_another_machine_latencies_are_measured_anew_and_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    asked: dict[str, Any] = {"objectives": ("accuracy", "latency_ms"), "emit": told.append}
    job, trials = search_request(tmp_path / "run", **asked), Trials()
    other = Machine("Other Core", (), 4, "1.32.0", "Linux x86_64")
    with monkeypatch.context() as patch:
        patch.setattr(latency, "this_machine", lambda: other)
        a_proposer(job, trials).add()
    there = trials[0].cost
    again = read_trials(job.ledger)
    a_proposer(job, again)
    assert again[0].cost.latency_ms != there.latency_ms
    assert again[0].cost.size_bytes == there.size_bytes
    assert "measured on another machine (Other Core" in told[-1].message
    once_more = read_trials(job.ledger)
    a_proposer(job, once_more)
    assert once_more[0].cost == again[0].cost
    assert len(job.ledger.all(EventKind.LATENCY)) == 2
    job.ledger.close()


def estimator(folder: Path, **limits: Any) -> CandidateEstimator:
    job = search_request(folder, limits=Limits(**limits), space=small_space(folder.parent, WIDE))
    made = a_proposer(job, Trials())
    job.ledger.close()
    return made.estimator


def test_an_estimate_names_the_parameters_in_use_and_how_far_beyond_limits_they_are(
    tmp_path: Path,
) -> None:
    params = {"stem.out": 8, "stage1.out": 8, "stage2.out": 8, "other": 1}
    found = estimator(tmp_path / "run", max_macs=SMALLEST_MACS // 2)(params)
    assert found is not None
    assert found.params == {k: v for k, v in params.items() if k != "other"}
    assert found.violation == pytest.approx(1.0, rel=1e-3)


def test_what_could_not_be_trained_to_the_end_is_violated_by_its_work(tmp_path: Path) -> None:
    made = estimator(tmp_path / "run")
    points = [{"stem.out": w, "stage1.out": w, "stage2.out": w} for w in (8, 16, 64)]

    def violations() -> list[float]:
        return [found.violation for point in points if (found := made(point)) is not None]

    assert violations() == [0.0, 0.0, 0.0]
    made.most_macs = SMALLEST_MACS
    assert violations()[0] == 0.0 < violations()[1] < violations()[2]
    made.most_macs = -5.0
    assert 0.0 < violations()[0] < violations()[1] < violations()[2]


def test_a_checked_cost_takes_the_place_of_its_estimate(tmp_path: Path) -> None:
    made = estimator(tmp_path / "run", max_size_bytes=1000)
    point = {"stem.out": 8, "stage1.out": 8, "stage2.out": 8}
    made.learn(point, Cost(500, 1, 1, 1, 1))
    found = made(point)
    assert found is not None
    assert (found.violation, found.values) == (0.0, {1: 500})


def test_estimates_that_were_forgotten_are_made_again_and_checked_costs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = estimator(tmp_path / "run", max_size_bytes=1000)
    other = estimator(tmp_path / "other", max_size_bytes=1000)
    points = [
        {"stem.out": a, "stage1.out": b, "stage2.out": c}
        for a in (8, 16, 64)
        for b in (8, 16, 64)
        for c in (8, 16, 64)
    ]
    before = [other(point) for point in points]
    made.learn(points[0], Cost(500, 1, 1, 1, 1))
    monkeypatch.setattr(module, "_ESTIMATES", 4)
    for _ in range(2):
        again = [made(point) for point in points]
        assert [(e.params, e.values, e.violation) for e in again[1:] if e is not None] == [
            (e.params, e.values, e.violation) for e in before[1:] if e is not None
        ]
        assert again[0] is not None
        assert again[0].values == {1: 500}
    assert len(made._estimates) <= 4
