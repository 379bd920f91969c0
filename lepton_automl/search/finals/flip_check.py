"""Flip check: whether final trainings mirror pictures at random, decided by trained nets.

The trials of a search are trained without flips. At its end the mirror test judges the most
accurate net. Where it leaves flips open, one finalist is trained both ways, if there is time, and
the validation samples decide; else there are none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Certainty, Decision
from lepton_automl.core.events import Event
from lepton_automl.data.dataset import Part
from lepton_automl.data.folds import EvaluatedSamples
from lepton_automl.data.sampling import balanced
from lepton_automl.data.tensors import load_labelled, selected
from lepton_automl.metrics.balanced import balanced_mean
from lepton_automl.metrics.bootstrap import cluster_effective_fraction
from lepton_automl.metrics.paired import paired_drop, tango_interval
from lepton_automl.models.model import Model
from lepton_automl.runs.ledger import EventKind, record_decision
from lepton_automl.search.finals.cross_validation import fold_results
from lepton_automl.search.finals.finalists import FinalRun
from lepton_automl.search.finals.mirror_test import FlipVerdict, MirrorTest, mirror_test
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.time_plan import Clock, work_of
from lepton_automl.search.trials import Trials
from lepton_automl.training.evaluate import predict_logits

FLIP = "flip"
"""Field of a recipe, and name of the decision."""
_SAMPLES = 3000
"""Validation samples that the mirror test uses at most."""
_TIME_SHARE = 0.05
"""Share of the time left that it may take."""
_LEVEL = 0.05
"""Probability of seeing a class harmed by flips where none is."""
_NONE, _SOME = "no random flips", "random flips in the final trainings"


def offers_both(space: SearchSpace) -> bool:
    """Whether a search space has recipes with random flips and recipes without."""
    values = {value for p in space.train_parameters(FLIP) for value in p.values}
    return values == {False, True}


def without_flips(request: SearchRequest) -> SearchRequest:
    """The request for the trials: without flips where the space leaves them open."""
    if not offers_both(request.space):
        return request
    return dataclasses.replace(request, space=request.space.with_fixed(FLIP, value=False))


def check(
    request: SearchRequest, tasks: TaskBuilder, trials: Trials, clock: Clock, round_number: int
) -> FlipVerdict:
    """Apply the mirror test to the most accurate net of the search; recorded once for each round.

    `OFF` also where the search space does not leave flips open.
    """
    if not offers_both(request.space):
        return FlipVerdict.OFF
    key = str(round_number)
    event = request.ledger.get(EventKind.MIRROR_TEST, key)
    if event is None:
        found = _tested(request, tasks, trials, clock)
        event = {
            "verdict": str(found.verdict),
            "reason": found.reason,
            "certainty": found.certainty,
            "prefers_flips": found.prefers_flips,
        }
        request.ledger.record(EventKind.MIRROR_TEST, key, event)
        titles = {
            FlipVerdict.OFF: _NONE,
            FlipVerdict.ON: _SOME,
            FlipVerdict.OPEN: "random flips are not decided yet",
        }
        request.emit(Event("search", f"{titles[found.verdict]}: {found.reason}"))
    return FlipVerdict(event["verdict"])


def choose(
    request: SearchRequest, trials: Trials, runs: Sequence[FinalRun], round_number: int
) -> None:
    """Decide on flips after the final trainings of a round, and record it.

    Where one finalist was trained both ways, flips are used if they make it more accurate on
    validation and significantly worse on no class; where the mirror test found no class in doubt,
    if they make it not significantly worse. If not, its trainings with flips are not used.
    """
    key = str(round_number)
    test = request.ledger.get(EventKind.MIRROR_TEST, key)
    if test is None:
        return
    verdict = FlipVerdict(test["verdict"])
    if verdict is not FlipVerdict.OPEN:
        choice = _SOME if verdict is FlipVerdict.ON else _NONE
        _record(request, choice, test["reason"], test["certainty"])
        return
    event = request.ledger.get(EventKind.FLIP_CHOICE, key)
    if event is None:
        event = _compared(
            request,
            trials,
            runs,
            round_number,
            prefers_flips=test["prefers_flips"],
        )
        request.ledger.record(EventKind.FLIP_CHOICE, key, event)
        if event["certainty"] == "measured":
            text = f"{_SOME if event['is_used'] else _NONE}: {event['evidence']}"
            request.emit(Event("search", text))
    if not event["is_used"]:
        trials.rejected_flips.add(key)
    evidence = f"{event['evidence']}; {test['reason']}"
    _record(request, _SOME if event["is_used"] else _NONE, evidence, event["certainty"])


def _record(request: SearchRequest, choice: str, evidence: str, certainty: Certainty) -> None:
    option = "--flip on" if choice == _NONE else "--flip off"
    record_decision(request.ledger, Decision(FLIP, choice, evidence, certainty, option))


def _tested(request: SearchRequest, tasks: TaskBuilder, trials: Trials, clock: Clock) -> MirrorTest:
    """The mirror test of the most accurate trial that has a checkpoint."""
    best = sorted(trials.trained(), key=lambda n: -trials.search_result(n).accuracy)
    checkpoints = [(n, tasks.checkpoint(trials.search_result(n).key)) for n in best]
    saved = [(n, folder) for n, folder in checkpoints if tasks.is_complete(folder)]
    if not saved:
        return MirrorTest(FlipVerdict.OPEN, "no net of the search is left to test")
    number, folder = saved[0]
    data = request.dataset
    work = work_of(trials[number].cost.macs, 1, 1)
    seconds = clock.seconds(work, number) - clock.seconds(0.0, number)
    # Twice, plain and mirrored; a training step takes longer than a prediction.
    most = int(min(_SAMPLES, _TIME_SHARE * max(0.0, clock.left()) / max(2 * seconds, 1e-9)))
    model = Model.load(folder)
    samples = load_labelled(data.decoded_files("validation", model.arch.size, request.folder.cache))
    chosen = balanced(samples.labels, most, request.config.seed)
    if not len(chosen):
        return MirrorTest(FlipVerdict.OPEN, "no time to test a net of the search")
    pixels = selected(samples, chosen).pixels
    plain, mirrored = (
        predict_logits(model, x, device=request.device).numpy() for x in (pixels, pixels.flip(2))
    )
    part = data.validation
    return mirror_test(
        plain,
        mirrored,
        part.labels[chosen],
        data.class_names,
        None if part.groups is None else part.groups[chosen],
        part.labels[chosen] if part.is_balanced else None,
    )


def _compared(
    request: SearchRequest,
    trials: Trials,
    runs: Sequence[FinalRun],
    round_number: int,
    *,
    prefers_flips: bool,
) -> dict[str, Any]:
    """The choice between the trainings of one finalist with and without flips."""
    flipped = [run for run in runs if run.flip]
    plain = [
        run
        for run in runs
        if not run.flip and (run.number, run.augment) in {(f.number, f.augment) for f in flipped}
    ]
    found = fold_results(request, trials, [*plain, *flipped], round_number)
    after = [variant for variant in found.correct if variant.flip]
    before = [variant for variant in found.correct if not variant.flip]
    if not after or not before:
        evidence = "no net could be trained both ways in the time"
        return {"is_used": bool(after), "evidence": evidence, "certainty": "assumed"}
    used, evidence = compare(
        found.correct[before[0]],
        found.correct[after[0]],
        found.samples,
        prefers_flips=prefers_flips,
        folds=len(found.folds),
    )
    evidence = f"trial {after[0].number} was trained both ways, {evidence}"
    return {"is_used": used, "evidence": evidence, "certainty": "measured"}


def compare(
    plain: NDArray[np.float64],
    flipped: NDArray[np.float64],
    validation: Part | EvaluatedSamples,
    *,
    prefers_flips: bool = False,
    folds: int = 1,
) -> tuple[bool, str]:
    """Whether the net trained with flips is used, and the figures in words.

    Parameters
    ----------
    plain, flipped : ndarray
        (N,): share of the trainings without and with flips, 0 to 1, that classify each validation
        sample correctly.
    validation : Part or EvaluatedSamples
        Labels, groups and balance of the samples.
    prefers_flips : bool
        Use it unless it is significantly worse; else only if it is better.
    folds : int
        Number of folds that the samples are of; 1: they are the validation part.
    """
    strata, groups = validation.strata, validation.groups
    accuracies = [balanced_mean(correct, strata) for correct in (flipped, plain)]
    drop = paired_drop(plain >= 0.5, flipped >= 0.5, groups, strata)
    samples = f"samples of {folds} folds" if folds > 1 else "validation samples"
    text = (
        f"{accuracies[0]:.1%} of {len(plain)} {samples} correct with flips and "
        f"{accuracies[1]:.1%} without (95 % interval of the difference {-drop.high:+.1f} to "
        f"{-drop.low:+.1f} points)"
    )
    harmed = _harmed_classes(plain, flipped, validation)
    if harmed:
        text += f"; flips make {len(harmed)} classes worse, beyond chance"
    is_better = drop.lower <= 0 if prefers_flips else accuracies[0] > accuracies[1]
    return is_better and not harmed, text


def _harmed_classes(
    plain: NDArray[np.float64],
    flipped: NDArray[np.float64],
    validation: Part | EvaluatedSamples,
) -> list[int]:
    """Classes whose accuracy is significantly lower with flips, corrected for their number."""
    labels, found = np.unique(validation.labels), []
    level = 1 - 2 * _LEVEL / len(labels)
    for label in labels.tolist():
        own = validation.labels == label
        change, share = plain[own] - flipped[own], 1.0
        if validation.groups is not None:
            share = cluster_effective_fraction(change, validation.groups[own], level)
        lost, won = change.clip(min=0).sum() * share, (-change).clip(min=0).sum() * share
        if tango_interval(lost, won, own.sum() * share, level)[0] > 0:
            found.append(label)
    return found
