"""The verbs as Python functions: what the commands do, typed, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from lepton_automl.artifact.predict import Prediction
from lepton_automl.artifact.predict import predict as predict_files
from lepton_automl.compress.loop import CompressionResult
from lepton_automl.config import Balance, Limits, Prefer, RunConfig, seconds
from lepton_automl.core.events import Emit, silent
from lepton_automl.pipeline import run as pipeline
from lepton_automl.pipeline.export import Outcome
from lepton_automl.pipeline.pick import PickRequest, PickResult
from lepton_automl.pipeline.pick import pick as pick_point
from lepton_automl.pipeline.status import Status
from lepton_automl.pipeline.status import status as read_status
from lepton_automl.runs.folder import configured, default_out, locate
from lepton_automl.search.request import SearchResult


class Options(TypedDict, total=False):
    """What `run` and `search` take besides the data; the command line's options by name."""

    out: str | Path
    test: str | Path
    space: str | Path
    budget: str | float
    trials: int
    limits: Limits
    objectives: Sequence[str]
    seed: int
    warm_start: str | Path
    target: str
    latency_from: str | Path
    prefer: Prefer
    jobs: int
    final_jobs: int
    device: str
    skip_corrupt: bool
    no_flip: bool
    balance: Balance
    fresh: bool
    optuna_storage: str
    callbacks: Sequence[str]


def run(data: str | Path, *, emit: Emit = silent, **options: Unpack[Options]) -> Outcome:
    """Search, compress, export and verify; see `lepton run --help`."""
    return pipeline.run(_config(data, options), emit=emit)


def search(data: str | Path, *, emit: Emit = silent, **options: Unpack[Options]) -> SearchResult:
    """Search only; the winner lies in the run folder's `models/best`."""
    return pipeline.search(_config(data, options), emit=emit)


def compress(run: str | Path, *, emit: Emit = silent) -> CompressionResult:
    """Prune, distill, equalise and quantize the winner of the run in `run`."""
    return pipeline.compress(configured(locate(Path(run))), emit=emit)


def export(run: str | Path, *, emit: Emit = silent) -> Outcome:
    """Write and prove the artifact of a compressed run."""
    return pipeline.export(configured(locate(Path(run))), emit=emit)


def pick(
    run: str | Path,
    *,
    limits: Limits,
    prefer: Prefer | None = None,
    budget: str | float | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    emit: Emit = silent,
) -> PickResult:
    """Another point of the front in `run` as a whole artifact; see `lepton pick --help`."""
    config = configured(
        locate(Path(run)),
        budget_seconds=None if budget is None else seconds(str(budget)),
        device=device,
    )
    wanted = PickRequest(limits, prefer, None if out is None else Path(out))
    return pick_point(config, wanted, emit=emit)


def verify(
    artifact: str | Path,
    data: str | None = None,
    *,
    test: str | Path | None = None,
    emit: Emit = silent,
) -> Outcome:
    """Prove a written artifact again, reading only."""
    path = Path(test) if test else None
    return pipeline.verify(Path(artifact), data=data, test=path, emit=emit)


def status(run: str | Path) -> Status:
    """How far the run in `run` is."""
    return read_status(locate(Path(run)))


def predict(artifact: str | Path, files: Sequence[str | Path]) -> list[Prediction]:
    """Label and probability of each picture file."""
    return predict_files(Path(artifact), [Path(file) for file in files])


def _config(data: str | Path, options: Options) -> RunConfig:
    given = dict(options)
    budget = given.pop("budget", None)
    for name in ("out", "test", "latency_from", "warm_start"):
        if name in given:
            given[name] = Path(str(given[name]))
    given.setdefault("out", default_out(str(data)))
    if "space" in given:
        given["space"] = str(given["space"])
    if "objectives" in given:
        given["objectives"] = tuple(options["objectives"])
    if "callbacks" in given:
        given["callbacks"] = tuple(options["callbacks"])
    return RunConfig(
        data=str(data),
        budget_seconds=None if budget is None else seconds(str(budget)),
        **given,  # type: ignore[arg-type]
    )
