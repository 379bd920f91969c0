from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from lepton_automl.runs.ledger import REFERENCE, EventKind, Ledger
from lepton_automl.search.objectives import load
from lepton_automl.search.pareto import (
    HypervolumeRecorder,
    front_of,
    hypervolume,
    on_front,
    pareto_ranks,
    series,
)
from lepton_automl.search.trials import Trials, read_trials
from lepton_automl.search.workers.task import pack
from tests.helpers.search import make_trial

AXES = ("accuracy", "size_bytes")


def union_of_boxes(points: np.ndarray, reference: np.ndarray) -> float:
    """Inclusion and exclusion: slow, and nothing to get wrong."""
    total = 0.0
    for count in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, count):
            corner = np.max(chosen, axis=0)
            total -= (-1) ** count * float(np.prod(np.maximum(reference - corner, 0)))
    return total


@pytest.mark.parametrize("axes", [1, 2, 3, 4, 5])
def test_it_is_the_union_of_the_points_boxes(axes: int) -> None:
    rng = np.random.default_rng(axes)
    reference = np.ones(axes)
    for count in (1, 2, 3, 5, 9):
        # Coarse values make ties; some points lie beyond the reference.
        points = rng.integers(0, 6, (count, axes)) / 4
        assert hypervolume(points, reference) == pytest.approx(union_of_boxes(points, reference))


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_it_is_what_optuna_counts(axes: int) -> None:
    points = np.random.default_rng(axes).random((30, axes))
    reference = np.full(axes, 1.1)
    assert hypervolume(points, reference) == pytest.approx(compute_hypervolume(points, reference))


def test_nothing_has_no_volume() -> None:
    assert hypervolume(np.zeros((0, 3)), np.ones(3)) == 0.0
    assert hypervolume(np.full((2, 3), 2.0), np.ones(3)) == 0.0


def test_the_front_is_rank_zero_without_repetitions() -> None:
    points = np.random.default_rng(0).integers(0, 5, (60, 3)).astype(np.float64)
    wanted = {tuple(p) for p, rank in zip(points, pareto_ranks(points), strict=True) if rank == 0}
    front = front_of(points)
    assert {tuple(p) for p in front} == wanted
    assert len(front) == len(wanted)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_repeated_points_are_on_the_front_together(axes: int) -> None:
    points = np.random.default_rng(axes).integers(0, 9, (700, axes)).astype(np.float64)
    assert on_front(points).tolist() == (pareto_ranks(points) == 0).tolist()


def record(ledger: Ledger, number: int, rung: str, right: int, *, failed: str = "") -> None:
    correct = pack(np.arange(200) < right)
    value = {"epochs": 1, "correct": correct, "failed": failed, "seconds": 0.1}
    ledger.record(EventKind.RUNG, f"{number}-{rung}", value)


def progress(ledger: Ledger, axes: tuple[str, ...] = AXES) -> HypervolumeRecorder:
    return HypervolumeRecorder(ledger, [load(name) for name in axes], read_trials(ledger))


def values(ledger: Ledger) -> list[float]:
    return [value for _, value in series(ledger)]


def enter(ledger: Ledger, number: int, size: int) -> None:
    ledger.record(EventKind.TRIAL, str(number), make_trial(number, size=size).to_event())


def test_every_rung_gets_its_value_counted_from_the_first_candidate(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    with ledger.watched(progress(ledger)):
        enter(ledger, 0, 8_000)
        record(ledger, 0, "0", 100)
        enter(ledger, 1, 4_000)
        record(ledger, 1, "0", 100)
        record(ledger, 0, "1", 180)
        record(ledger, 1, "1", 0, failed="diverged")
        record(ledger, 0, "final-0", 170)
    # Three classes, room for two doublings: half right at the first size is (1/2 - 1/3) * 2.
    gain = 1 / 2 - 1 / 3
    wanted = [gain * 2, gain * 3, gain * 3 + (0.9 - 0.5) * 2]
    wanted += [wanted[-1]] * 2
    assert values(ledger) == pytest.approx(wanted, abs=1e-5)
    assert list(ledger.all(EventKind.HYPERVOLUME)) == [
        REFERENCE,
        "0-0",
        "1-0",
        "0-1",
        "1-1",
        "0-final-0",
    ]
    assert [seconds for seconds, _ in series(ledger)] == sorted(s for s, _ in series(ledger))
    ledger.close()


def test_a_step_back_on_the_front_brings_back_whom_it_hid(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    with ledger.watched(progress(ledger)):
        enter(ledger, 0, 8_000)
        enter(ledger, 1, 8_000)
        record(ledger, 0, "0", 150)
        record(ledger, 1, "0", 140)
        record(ledger, 0, "1", 120)
    assert values(ledger)[-1] == pytest.approx((0.7 - 1 / 3) * 2, abs=1e-5)
    ledger.close()


def test_incremental_values_are_those_of_the_whole_set_and_survive_a_kill(tmp_path: Path) -> None:
    rng, axes = np.random.default_rng(3), ("accuracy", "size_bytes", "macs")
    first, second = (Ledger(tmp_path / name / "ledger.db") for name in "ab")
    steps: list[Any] = []
    for number in range(12):
        steps.append((enter, number, int(rng.integers(2_000, 20_000))))
        steps += [
            (record, int(n), str(r), int(rng.integers(40, 200)))
            for r, n in enumerate([number, rng.integers(0, number + 1)])
            if r == 0 or number % 2
        ]
    seen: set[Any] = set()
    steps = [s for s in steps if s[:-1] not in seen and not seen.add(s[:-1])]  # type: ignore[func-returns-value]
    with first.watched(progress(first, axes)):
        for act, *about in steps:
            act(first, *about)
    for act, *about in steps:
        act(second, *about)  # Nobody watched: as if killed before every value.
    progress(second, axes)
    assert values(first) == values(second)
    latest = {}
    reference = np.array(first.get(EventKind.HYPERVOLUME, REFERENCE)["point"])  # type: ignore[index]
    trials = read_trials(first)
    for number, scores in trials.results.items():
        cost = trials[number].cost
        latest[number] = (-scores[-1].accuracy, np.log2(cost.size_bytes), np.log2(cost.macs))
    whole = compute_hypervolume(
        np.array([p for p in latest.values() if np.all(p < reference)]), reference
    )
    assert values(first)[-1] == pytest.approx(whole, abs=1e-5)
    first.close()
    second.close()


def test_three_hundred_trials_cost_little(tmp_path: Path) -> None:
    class Memory:
        """A ledger without a disk."""

        def __init__(self) -> None:
            self.events: dict[tuple[str, str], Any] = {}

        def record(self, kind: str, key: str, value: Any) -> None:
            self.events[kind, key] = value

        def get(self, kind: str, key: str) -> Any:
            return self.events.get((kind, key))

        def all(self, kind: str) -> dict[str, Any]:
            return {key: value for (k, key), value in self.events.items() if k == kind}

        def alive_seconds(self) -> float:
            return 0.0

    rng, ledger = np.random.default_rng(0), Memory()
    axes = [load(name) for name in ("accuracy", "size_bytes", "macs", "peak_ram_bytes")]
    watch = HypervolumeRecorder(ledger, axes, Trials())  # type: ignore[arg-type]
    events, plain = [], make_trial(0).to_event()
    for number in range(300):
        size, macs = (int(n) for n in rng.integers(2_000, 20_000, 2))
        cost = plain["cost"] | {"size_bytes": size, "macs": macs}
        events.append((EventKind.TRIAL, str(number), plain | {"number": number, "cost": cost}))
        right = int(40 + 8 * np.log2(size) + rng.integers(0, 20))
        value = {"epochs": 1, "correct": pack(np.arange(200) < right), "failed": "", "seconds": 0}
        events.append((EventKind.RUNG, f"{number}-0", value))
    begun = time.process_time()
    for event in events:
        watch(*event)
    assert time.process_time() - begun < 3
    assert len(ledger.all(EventKind.HYPERVOLUME)) == 301
