from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_automl.search.finals import Final
from lepton_automl.search.lesson import LESSON, lesson_for, lesson_of, told
from lepton_automl.search.trials import Trials
from tests.nets import random_arch
from tests.searching import candidate, score, work

FINALS = [Final(number, 40) for number in range(4)] + [Final(1, 40, 1)]
RIGHT = {"0-final-0": 150, "1-final-0": 170, "2-final-0": 160, "3-final-0": 190, "1-final-0-1": 175}


def some(**failed: str) -> Trials:
    """Four candidates after their last trainings; the last one sees larger pictures."""
    trials = Trials()
    for number in range(4):
        trials.add(candidate(number))
        trials.score(number, score("0", 120))
    for final in FINALS:
        key = f"{final.number}-{final.label(0)}"
        trials.score(final.number, score(final.label(0), RIGHT[key], failed=failed.get(key, "")))
    wide = random_arch(3, input=(16, 16, 1), classes=3)
    trials.candidates[3] = dataclasses.replace(candidate(3), arch=wide)
    return trials


def test_the_best_nets_of_all_finalists_that_see_pictures_of_the_same_size_teach() -> None:
    wanted = Final(0, 40, teachers=("0-final-0", "1-final-0-1", "2-final-0"))
    assert lesson_for(0, FINALS, some(), 0) == wanted
    assert wanted.label(0) == "final-0-taught"
    assert "learns from trials 0, 1, 2" in told(wanted)
    lesson = lesson_for(0, FINALS, some(**{"1-final-0-1": "the loss became nan"}), 0)
    assert lesson is not None
    assert lesson.teachers == ("0-final-0", "1-final-0", "2-final-0")


def test_nobody_is_taught_by_itself_alone_or_without_having_been_trained_from_nothing() -> None:
    trials = some()
    assert lesson_for(3, FINALS, trials, 0) is None
    assert lesson_for(1, [FINALS[1], FINALS[4]], trials, 0) is None
    scarce = [dataclasses.replace(final, is_fresh=False) for final in FINALS]
    assert lesson_for(0, scarce, trials, 0) is None
    failed = some(**{"0-final-0": "the loss became nan"})
    assert lesson_for(0, FINALS, failed, 0) is None


def test_a_ledger_knows_the_lesson_of_each_round(tmp_path: Path) -> None:
    job, lesson = work(tmp_path / "run"), Final(0, 40, teachers=("0-final-1", "1-final-1"))
    assert lesson_of(job.ledger, 0) is None
    job.ledger.record("plan", f"{LESSON}-0", {"finals": []})
    job.ledger.record("plan", f"{LESSON}-1", {"finals": [lesson.to_event()]})
    assert [lesson_of(job.ledger, n) for n in range(3)] == [None, lesson, None]
    job.ledger.close()
