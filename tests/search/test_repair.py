from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.cost.latency_model import estimate
from lepton_automl.models.arch import Arch
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.proposals.repair import CheckedPoint, Repair, spread
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial, SpaceTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.training.recipe import Recipe

TARGET = targets.load("cortex-m")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def repair(ledger: Ledger, found: SearchSpace, limits: Limits) -> tuple[Repair, CostCheck]:
    """Latencies are told, so that the answers do not depend on the machine."""
    check = CostCheck(
        limits,
        TARGET,
        100,
        needs_latency=True,
        ledger=ledger,
        lock=MeasurementLock(ledger.path.parent / "locks"),
        model=estimate(TARGET),
    )

    def draw(trial: SpaceTrial) -> tuple[Arch, Recipe]:
        return found.sample(trial, size=(28, 28), channels=1, classes=10, target=TARGET)

    return Repair(draw, found.parameters(), check), check


def start(found: SearchSpace, check: CostCheck, seed: int) -> CheckedPoint:
    point = RandomTrial(seed)
    arch, recipe = found.sample(point, size=(28, 28), channels=1, classes=10, target=TARGET)
    cost = check.whole(arch)
    return CheckedPoint(dict(point.params), arch, recipe, cost, violations(cost, check.limits))


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_what_one_net_keeps_is_kept_from_far_away(ledger: Ledger, name: str) -> None:
    found = loader.load(name)
    _, check = repair(ledger, found, Limits())
    small = min((start(found, check, seed) for seed in range(20)), key=lambda n: n.cost.size_bytes)
    limits = Limits(
        max_latency_ms=small.cost.latency_ms,
        max_size_bytes=small.cost.size_bytes,
        max_macs=small.cost.macs,
        max_peak_ram_bytes=small.cost.peak_ram_bytes,
    )
    mended, check = repair(ledger, found, limits)
    for seed in range(100, 103):
        arrived = mended.toward(start(found, check, seed))
        assert not arrived.violations
        assert not violations(check(arrived.arch), limits)


def test_the_least_of_each_cost_is_below_every_drawn_one(ledger: Ledger) -> None:
    found = loader.load("residual")
    mended, check = repair(ledger, found, Limits())
    drawn = [start(found, check, seed) for seed in range(40)]
    for limit, name in (("max_macs", "macs"), ("max_size_bytes", "size_bytes")):
        least = getattr(mended.least(drawn[0], limit).cost, name)
        assert least <= min(getattr(near.cost, name) for near in drawn)


def test_the_recipe_of_the_start_is_kept(ledger: Ledger) -> None:
    found = loader.load("tiny")
    mended, check = repair(ledger, found, Limits(max_size_bytes=9_000))
    begun = start(found, check, 3)
    assert mended.toward(begun).recipe == begun.recipe


def near(**beyond: float) -> CheckedPoint:
    arch, recipe = next(_points)
    return CheckedPoint({}, arch, recipe, Cost(1, 1, 1, 1, 1), beyond)


_found = loader.load("tiny")
_points = (
    _found.sample(RandomTrial(seed), size=(8, 8), channels=1, classes=3, target=TARGET)
    for seed in itertools.count()
)


def test_starts_differ_in_the_limits_they_break() -> None:
    first = near(size=0.1)
    second = near(size=0.2)
    third = near(macs=0.5)
    assert spread([third, second, first], 2) == [first, third]
    assert spread([third, second, first], 3) == [first, third, second]
    assert spread([], 3) == []


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("tiny", Limits(max_size_bytes=12_000)),
        ("residual", Limits(max_size_bytes=25_000)),
        ("residual", Limits(max_macs=3_000_000)),
        ("mobile", Limits(max_size_bytes=60_000, max_macs=1_000_000)),
    ],
)
def test_a_known_good_net_that_is_too_large_stays_as_large_as_it_may(
    ledger: Ledger, name: str, limits: Limits
) -> None:
    found = loader.load(name)
    made, check = repair(ledger, found, limits)
    for params in found.candidates:
        point = RandomTrial(0, params)
        arch, recipe = found.sample(point, size=(28, 28), channels=1, classes=10, target=TARGET)
        cost = check.whole(arch)
        begun = CheckedPoint(dict(point.params), arch, recipe, cost, violations(cost, limits))
        shrunk = made.shrink(begun)
        assert not shrunk.violations
        if not begun.violations:
            assert shrunk is begun
            continue
        assert shrunk.recipe == begun.recipe
        # Nothing of what was changed can be put back alone.
        for path in shrunk.params.keys() & begun.params.keys():
            if shrunk.params[path] != begun.params[path]:
                back = RandomTrial(0, shrunk.params | {path: begun.params[path]})
                again, _ = found.sample(back, size=(28, 28), channels=1, classes=10, target=TARGET)
                assert violations(check.whole(again), limits)
        towards = made.toward(begun).cost
        kept = [c.macs * c.weight_bytes for c in (shrunk.cost, towards)]
        assert kept[0] >= 0.9 * kept[1]
