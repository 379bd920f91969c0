from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.search.patience import LONGEST_STEP, Patience

LOOK = 0.25


def watched(patience: Patience, start: float, seconds: float, *, excused: bool = False) -> float:
    """Look on in small steps until so much time has passed or the patience has; when it ended."""
    now = start
    while now < start + seconds and not patience.is_over:
        now += LOOK
        patience.look(now, excused=excused)
    return now


def beating(patience: Patience, every: float, times: int) -> float:
    now = 0.0
    for _ in range(times):
        now = watched(patience, now, every)
        patience.heard()
    return now


def test_a_worker_with_short_batches_is_given_up_after_the_least_time() -> None:
    patience = Patience(0.0, 20.0)
    now = beating(patience, 0.25, 100)
    assert not patience.is_over
    assert 20 <= watched(patience, now, 1000) - now <= 20 + 2 * LOOK


def test_a_worker_with_long_batches_is_given_thirty_of_them() -> None:
    patience = Patience(0.0, 20.0)
    now = beating(patience, 4.0, 10)
    assert 115 <= watched(patience, now, 1000) - now <= 125


def test_a_first_batch_and_a_process_that_starts_are_given_more() -> None:
    assert 59 <= watched(Patience(0.0, 20.0), 0.0, 1000) <= 61
    assert 299 <= watched(Patience(0.0, 20.0, is_known=False), 0.0, 1000) <= 301


def test_waiting_for_somebody_who_measures_is_no_hanging() -> None:
    patience = Patience(0.0, 1.0)
    now = watched(patience, 0.0, 500, excused=True)
    assert patience.silent == 0
    assert not patience.is_over
    watched(patience, now, 500)
    assert patience.is_over


@given(st.floats(10, 1e6))
def test_a_gap_in_the_listeners_own_clock_counts_as_one_step(gap: float) -> None:
    # Ctrl-Z stops both; when they go on the worker has not hung.
    patience = Patience(0.0, 20.0)
    now = beating(patience, 0.25, 10) + gap
    patience.look(now, excused=False)
    assert patience.silent <= LONGEST_STEP
    assert not patience.is_over
