"""The stages in order: intake, search, compress, export, verify; each resumable and skippable."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lepton_automl import bundle, manifest
from lepton_automl.compress import Measure, Work
from lepton_automl.compress.ladder import Compressed
from lepton_automl.compress.ladder import compress as climb
from lepton_automl.config import RunConfig
from lepton_automl.dataset import Dataset, labelled, open_dataset
from lepton_automl.errors import DataError
from lepton_automl.events import Emit, silent
from lepton_automl.model import Model
from lepton_automl.model_card import card
from lepton_automl.recipe import Recipe
from lepton_automl.run_folder import locate, locate_artifact
from lepton_automl.search import SearchResult, SearchWork
from lepton_automl.search import search as find
from lepton_automl.search.ledger import LedgerView
from lepton_automl.session import Session, opened
from lepton_automl.timing import Timing
from lepton_automl.verdict import Verdict
from lepton_automl.verify import (
    Request,
    log_opening,
    openings,
    reference_predictions,
    verify_in_fresh_process,
)

SEARCH_SHARE = 0.70
"""Of the whole budget, what may be used when compression begins."""
COMPRESS_SHARE = 0.92
"""Of the whole budget, what may be used when the files are written."""
RECOVERY_SHARE = 0.5
"""Epochs of recovery after pruning, as a share of the winner's own, where no budget decides."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves."""

    artifact: Path
    verdict: Verdict
    found: SearchResult | None = None
    """What the search found, where this call searched."""


def run(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """All stages into one folder; the same call again goes on, a finished run answers at once.

    Raises
    ------
    LeptonError
        What a user can put right.
    """
    with opened(config, emit) as session:
        finished = _finished(session)
        if finished is not None:
            return finished
        found = _search(session, SEARCH_SHARE)
        _compress(session, found.best, found.recipe, COMPRESS_SHARE)
        outcome = _export(session)
        _finish(session, outcome)
        return dataclasses.replace(outcome, found=found)


def search(config: RunConfig, *, emit: Emit = silent) -> SearchResult:
    """Search only; leaves the winner in `models/best`.

    Raises
    ------
    LeptonError
        What a user can put right.
    """
    with opened(config, emit) as session:
        return _search(session, 1.0)


def compress(config: RunConfig, *, emit: Emit = silent) -> Compressed:
    """Prune, recover and quantize the winner of a search.

    Raises
    ------
    DataError
        If no search has left a winner.
    """
    with opened(config, emit) as session:
        best, recipe = _winner(session)
        return _compress(session, best, recipe, None)


def export(config: RunConfig, *, emit: Emit = silent) -> Outcome:
    """Write the artifact of a compressed run and prove it.

    Raises
    ------
    DataError
        If the run was not compressed yet.
    """
    with opened(config, emit) as session:
        return _export(session)


def verify(
    artifact: Path, *, data: str | None = None, test: Path | None = None, emit: Emit = silent
) -> Outcome:
    """Prove a written artifact again; nothing is written but to a temporary folder.

    Parameters
    ----------
    artifact : Path
        The artifact folder, its run folder or the ONNX file.
    data, test
        Where the test part comes from; by default the run's own data.

    Raises
    ------
    DataError
        If there is no finished artifact or no data to judge it on.
    """
    folder = locate_artifact(artifact)
    shape = bundle.read_about(folder).input
    dataset = _data_of(folder, data, test, emit)
    with tempfile.TemporaryDirectory() as cache:
        request = _request(folder, dataset, shape, Path(cache))
        verdict = verify_in_fresh_process(
            dataclasses.replace(request, openings=_openings(folder, request.fingerprint))
        )
    return Outcome(folder, verdict)


def _search(session: Session, share: float) -> SearchResult:
    config = session.config
    budget = config.seconds_in_all
    work = SearchWork(
        folder=session.folder.path,
        ledger=session.ledger,
        dataset=session.dataset,
        space=session.space,
        target=session.target,
        limits=config.limits,
        objectives=config.objectives,
        prefer=config.prefer,
        seed=config.seed,
        jobs=config.workers,
        device=session.device,
        budget_seconds=None if budget is None else budget * share,
        trials=config.trials,
        cache=session.folder.cache,
        emit=session.emit,
    )
    return find(work)


def _compress(session: Session, best: Model, recipe: Recipe, share: float | None) -> Compressed:
    dataset, size = session.dataset, best.arch.input[:2]
    train, validation = (
        labelled(dataset.files(part, size, session.folder.cache))
        for part in ("train", "validation")
    )
    budget, ledger = session.config.seconds_in_all, session.ledger
    is_timed = budget is not None and share is not None
    ends = (budget or 0.0) * (share or 0.0)
    work = Work(
        train=train,
        validation=validation,
        reference=best,
        limits=session.config.limits,
        target=session.target,
        recipe=recipe,
        seed=session.config.seed,
        device=session.device,
        epochs=max(1, round(recipe.epochs * RECOVERY_SHARE)),
        seconds_left=(lambda: ends - ledger.alive_seconds()) if is_timed else None,
        emit=session.emit,
        measure=_measure(session),
    )
    return climb(best, work, _compressed_folder(session, best))


def _measure(session: Session) -> Measure | None:
    """Timings that a resumed run replays; None where nothing stated needs them."""
    limits = session.config.limits
    if "latency_ms" not in session.config.objectives and limits.max_latency_ms is None:
        return None
    return Timing(session.ledger).milliseconds


def _export(session: Session) -> Outcome:
    best, _ = _winner(session)
    made = Compressed.load(_compressed_folder(session, best))
    session.tell("export", f"writing {session.folder.artifact}")
    size, cache = best.arch.input[:2], session.folder.cache
    digests = bundle.write_bundle(
        session.folder.artifact,
        int8=made.int8,
        float_twin=made.pruned_float,
        reference=best,
        dataset=session.dataset,
        validation=session.dataset.files("validation", size, cache),
        limits=session.config.limits,
        target=session.target,
        prefer=session.config.prefer,
    )
    return _prove(session, digests, best.arch.input)


def _prove(session: Session, digests: dict[str, str], shape: tuple[int, int, int]) -> Outcome:
    """Log the opening, verify in a fresh process, add card, verdict and manifest."""
    folder, dataset = session.folder.artifact, session.dataset
    request = _request(folder, dataset, shape, session.folder.cache)
    opened_on = log_opening(session.ledger, digests[manifest.INT8], request.fingerprint)
    session.tell("verify", f"{len(dataset.test)} test pictures, in a fresh process")
    verdict = verify_in_fresh_process(
        dataclasses.replace(
            request, openings=opened_on, digests=digests, quiet_reference_ms=_quiet(session)
        )
    )
    predictions = reference_predictions(folder, dataset.pixels("test", shape[:2]))
    text = card(verdict, bundle.read_about(folder))
    bundle.seal(folder, digests, verdict=verdict, card=text, predictions=predictions)
    return Outcome(folder, verdict)


def _quiet(session: Session) -> float | None:
    """Quiet time of the reference net where this run has measured it: one unit for all figures."""
    return Timing(session.ledger).reference_ms() if _measure(session) else None


def _request(folder: Path, dataset: Dataset, shape: tuple[int, int, int], cache: Path) -> Request:
    files = dataset.files("test", shape[:2], cache)
    groups = dataset.test.groups
    return Request(
        folder=folder,
        pixels=files.pixels,
        labels=files.labels,
        fingerprint=dataset.part_fingerprint("test"),
        groups=None if groups is None else tuple(int(group) for group in groups),
    )


def _winner(session: Session) -> tuple[Model, Recipe]:
    folder = session.folder.best
    if not (folder / "recipe.json").is_file():
        raise DataError(
            f"{session.folder.path} has no winner yet: {folder} is not there",
            fix="run `lepton search` into this folder first",
        )
    return Model.load(folder), Recipe.from_json((folder / "recipe.json").read_text())


def _compressed_folder(session: Session, best: Model) -> Path:
    """A folder a winner, so that a winner of a longer search does not meet another's steps."""
    return session.folder.models / f"compressed-{best.digest[:8]}"


def _finished(session: Session) -> Outcome | None:
    """The outcome that is there, unless more trials or time than it had are asked for."""
    folder, asked = session.folder.artifact, session.config
    if not (folder / manifest.MANIFEST).is_file():
        return None
    had = list(session.ledger.all("finished").values())
    if not had or (asked.trials or 0) > (had[-1]["trials"] or 0):
        return None
    if (asked.seconds_in_all or 0.0) > (had[-1]["budget_seconds"] or 0.0):
        return None
    session.tell("run", "finished before; a larger --budget or --trials continues it")
    return Outcome(folder, bundle.read_verdict(folder))


def _finish(session: Session, outcome: Outcome) -> None:
    number = len(session.ledger.all("finished"))
    session.ledger.record(
        "finished",
        str(number),
        {
            "trials": session.config.trials,
            "budget_seconds": session.config.seconds_in_all,
            "verdict": outcome.verdict.status,
        },
    )


def _data_of(folder: Path, data: str | None, test: Path | None, emit: Emit) -> Dataset:
    about = bundle.read_about(folder)
    seed, skip_corrupt = 0, False
    if data is None:
        try:
            definition = locate(folder).definition()
        except DataError as error:
            raise DataError(
                f"{folder} does not lie in its run, so its data are not known",
                fix=f"give the data: lepton verify {folder} DATA",
            ) from error
        definition.find_data(f"lepton verify {folder} DATA")
        data, seed, skip_corrupt = definition.data, definition.seed, definition.skip_corrupt
        test = test or (Path(definition.test) if definition.test else None)
    dataset = open_dataset(data, test=test, seed=seed, skip_corrupt=skip_corrupt, emit=emit)
    if dataset.class_names != about.class_names:
        raise DataError(
            f"{data} has the classes {', '.join(dataset.class_names)}, the artifact was made for "
            f"{', '.join(about.class_names)}",
            fix="give data with the same classes",
        )
    return dataset


def _openings(folder: Path, fingerprint: str) -> int:
    """Files judged on this test part so far, as the ledger of its run says."""
    try:
        run_folder = locate(folder)
    except DataError:
        return 1
    with LedgerView(run_folder.ledger) as ledger:
        return max(1, openings(ledger, fingerprint))
