from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.search.packing import WINDOW_SECONDS, Memory, Packing, wanted

ROOMY = Memory(free=90, total=100)


def settled(speed: list[float], memory: Memory | None = ROOMY, most: int = 16) -> list[int]:
    """Counts from one look to the next on a GPU where n workers have `speed[n - 1]` together."""
    packing, counts, done = Packing(most), [1], 0.0
    for second in range(600):
        done += speed[min(packing.count, len(speed)) - 1]
        count = packing.look(float(second), done, memory, ready=True)
        if count != counts[-1]:
            counts.append(count)
    return counts


def test_workers_are_added_while_the_whole_gets_faster_by_a_tenth() -> None:
    assert settled([100, 180, 230, 240]) == [1, 2, 3, 4, 3]
    assert settled([100, 105]) == [1, 2, 1]
    assert settled([100, 60]) == [1, 2, 1]


def test_it_is_bounded_by_cores_and_memory() -> None:
    ever_faster = [100.0 * n for n in range(1, 99)]
    assert settled(ever_faster, most=3) == [1, 2, 3]
    assert settled(ever_faster, most=1) == [1]
    # One worker took 60 of 100: there is no room for the next.
    assert settled(ever_faster, Memory(free=40, total=100)) == [1]
    assert settled(ever_faster, None) == [1]


def test_room_is_judged_by_what_each_worker_took() -> None:
    assert wanted({1: 1.0, 2: 2.0}, 2, Memory(free=32, total=80), 9) == 3
    assert wanted({1: 1.0, 2: 2.0}, 2, Memory(free=30, total=90), 9) == 2


def test_a_number_is_judged_only_after_a_whole_window_in_which_all_have_trained() -> None:
    packing = Packing(4)
    assert packing.look(0.0, 0.0, ROOMY, ready=False) == 1
    assert packing.look(1.0, 10.0, ROOMY, ready=True) == 1
    assert packing.look(2.0, 10.0, ROOMY, ready=False) == 1
    assert packing.look(3.0, 10.0, ROOMY, ready=True) == 1
    assert packing.look(3.0 + WINDOW_SECONDS - 1, 200.0, ROOMY, ready=True) == 1
    assert packing.look(3.0 + WINDOW_SECONDS, 210.0, ROOMY, ready=True) == 2
    assert packing.rates == {1: pytest.approx(200 / WINDOW_SECONDS)}


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=12), st.integers(1, 12))
def test_it_always_settles(speed: list[float], most: int) -> None:
    counts = settled(speed, most=most)
    assert max(counts) <= most
    # Up by one at a time, at most one step back at the end.
    ups = counts if len(counts) == 1 or counts[-1] > counts[-2] else counts[:-1]
    assert ups == list(range(1, len(ups) + 1))
