from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from lepton_automl.pick import Option
from lepton_automl.search.entrants import Entrants
from lepton_automl.search.finals import FINALISTS, Entrant
from lepton_automl.search.plan import Clock
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from lepton_automl.search.work import SearchWork
from tests.searching import SPACE, candidate, score, small_space, work

ENDLESS = Clock(lambda: math.inf, 0.0, 0.0)
OFFERED = SPACE.replace("[train]", "[train]\naugment = [0.0, 0.5, 1.0]")


def chosen(job: SearchWork, right: dict[int, int], nets: dict[int, int]) -> list[Entrant]:
    """Of candidates that got so many of 200 right, each with the net of that number."""
    trials = Trials()
    for number, each in right.items():
        trials.add(replace(candidate(nets[number]), number=number))
        trials.score(number, score("0", each, epochs=9))
    options = [Option(n, np.arange(200) < k, trials.candidates[n].cost) for n, k in right.items()]
    entrants = Entrants(job, Tasks(job, trials), trials, ENDLESS).of(options)
    job.ledger.close()
    return entrants


def test_of_one_architecture_only_the_best_candidate_enters(tmp_path: Path) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",))
    nets = {0: 7, 1: 8, 2: 7, 3: 9, 4: 10}
    entrants = chosen(job, {0: 190, 1: 170, 2: 180, 3: 160, 4: 150}, nets)
    assert [e.number for e in entrants] == [0, 1, 3]


def test_the_first_enters_again_with_stronger_changes_that_the_space_offers(tmp_path: Path) -> None:
    job = work(tmp_path / "run", objectives=("accuracy",))
    job = replace(job, space=small_space(tmp_path, OFFERED))
    entrants = chosen(job, {0: 170, 1: 190, 2: 180}, {0: 0, 1: 1, 2: 2})
    assert [(e.number, e.augment) for e in entrants] == [
        (1, None),
        (1, 1.0),
        (2, None),
    ]  # A recipe has 0.5.
    assert len(entrants) == FINALISTS
