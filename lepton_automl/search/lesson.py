"""Lesson: the winner's last training once more, with the answers of all finalists beside labels."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_automl.search.finals import LEAST_TEACHERS, Final, planned
from lepton_automl.search.ledger import LedgerView
from lepton_automl.search.trials import TrainingKey, Trials
from lepton_automl.shares import epochs_text

LESSON = "lesson"
"""Key of the ledger's plan, with the round's number."""


def lesson_of(ledger: LedgerView, round_number: int) -> Final | None:
    """The lesson that a round decided on, if it did."""
    return next(iter(planned(ledger, f"{LESSON}-{round_number}")), None)


def lesson_for(
    number: int, finals: Sequence[Final], trials: Trials, round_number: int
) -> Final | None:
    """A candidate's last training once more, taught by the best net of each that had one.

    None where it was not trained from nothing, or where too few others see pictures of its size.

    Parameters
    ----------
    number : int
        The candidate.
    finals : sequence of Final
        The last trainings of a round.
    trials : Trials
        What came of them.
    round_number : int
        Which round.
    """
    size, best = trials[number].arch.input, dict[int, tuple[float, TrainingKey]]()
    for final in finals:
        score = trials.final_result(final.key(round_number))
        alike = trials[final.number].arch.input == size
        if final.is_fresh and alike and score is not None and not score.failed:
            known = best.get(final.number, (-1.0, score.key))
            best[final.number] = max(known, (score.accuracy, score.key), key=lambda each: each[0])
    if number not in best or len(best) < LEAST_TEACHERS:
        return None
    epochs = next(final.epochs for final in finals if final.number == number)
    teachers = tuple(str(key) for _, key in best.values())
    return Final(number, epochs, teachers=teachers, augment=best[number][1].augment)


def told(lesson: Final) -> str:
    """The decision in a line."""
    numbers = [str(TrainingKey.parse(key).trial) for key in lesson.teachers]
    return (
        f"trial {lesson.number} is trained from nothing once more, "
        f"{epochs_text(lesson.epochs)}, and "
        f"learns from trials {', '.join(numbers)} as well; the better net ships"
    )
