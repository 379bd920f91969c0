"""The ladder of a compression: each step tried, kept or put back, and written down."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import int8_file, validation_right
from lepton_automl.compress.pruning.prune import prune
from lepton_automl.compress.pruning.savings import is_within
from lepton_automl.compress.quantization.quantize import Quantized, to_int8
from lepton_automl.core import files
from lepton_automl.core.events import Event
from lepton_automl.cost.latency import Written
from lepton_automl.cost.latency_model import Basis
from lepton_automl.errors import DataError
from lepton_automl.metrics import balanced
from lepton_automl.metrics.intervals import accuracy_interval
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx

FIRST_SHARE = 0.4
"""Of the cost, what the first cut takes."""
SMALLEST_SHARE = 0.1
"""Cuts smaller than this are not worth a recovery."""
ROUNDS, AIMED_ROUNDS = 6, 16
"""Cuts tried at most; where limits are to be reached."""
TELLING_POINTS = 0.1
"""On validation, what plain rounding must lose more to be mentioned."""
QUANTIZED = "quantized"
RECORD = "ladder.json"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Rung:
    """One step as it was tried."""

    name: str
    """`reference`, `pruned-1` and so on, `quantized`."""
    accuracy: float
    """Share of validation pictures that are right, 0 to 1; of the int8 file once quantized."""
    arch: str
    """`hash` of its architecture."""
    size_bytes: int
    """Of the int8 file."""
    macs: int
    latency_ms: float | None
    """Of the int8 file at batch 1; None where nothing is measured."""
    is_accepted: bool
    why: str
    latency_basis: Basis = "measured"
    """What the latency is told from."""
    interval: tuple[float, float] | None = None
    """95 % of the accuracy."""


@dataclass(frozen=True)
class Compressed:
    """What a compression leaves."""

    reference: Model
    """The float model that was given."""
    pruned_float: Model
    """The float twin of the int8 model."""
    int8: Model
    rungs: tuple[Rung, ...]
    """Every step in order, accepted or not."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a finished compression.

        Raises
        ------
        DataError
            If it is not there or not finished.
        """
        rungs = read_rungs(folder)
        if not rungs or rungs[-1].name != QUANTIZED:
            raise DataError(
                f"{folder} holds no finished compression",
                fix="run `lepton compress` on this run first",
            )
        kept = [rung.name for rung in rungs if rung.is_accepted]
        reference, pruned, int8 = (Model.load(folder / kept[n]) for n in (0, -2, -1))
        return cls(reference, pruned, int8, rungs)


def compress(model: Model, work: Work, folder: Path) -> Compressed:
    """Prune while it pays, then quantize.

    Every step is written to `folder` before the next one begins; a step that is there already is
    read instead of done again, so an interrupted compression goes on where it stopped.

    Parameters
    ----------
    model : Model
        A trained float model, batch normalisation not folded.
    work : Work
        Data, limits, target and how long to train.
    folder : Path
        One that belongs to this model and these limits alone.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    rungs = list(read_rungs(folder))
    if not rungs:
        model.save(folder / "reference")
        _write(folder, rungs, _rung("reference", model, work, why="every drop counts from here"))
    current = Model.load(folder / [rung.name for rung in rungs if rung.is_accepted][-1])
    while rungs[-1].name != QUANTIZED and work.epochs and (share := _next_share(rungs, work)):
        if _is_there(rungs, current, work):
            work.emit(Event("compress", "no more pruning: it is within the limits"))
            break
        if work.seconds_left is not None and work.seconds_left() <= work.quantize_seconds:
            work.emit(Event("compress", "no more pruning: the time is over"))
            break
        known = frozenset(rung.arch for rung in rungs)
        tried = prune(current, work, share, known)
        if tried.model is None:
            work.emit(Event("compress", f"no more pruning: {tried.why}"))
            break
        name = f"pruned-{len(rungs)}"
        if tried.is_accepted:
            current = tried.model
            current.save(folder / name)
        _write(folder, rungs, _rung(name, tried.model, work, tried.is_accepted, why=tried.why))
        work.emit(_event(rungs[-1]))
    if rungs[-1].name != QUANTIZED:
        made = to_int8(current, work)
        made.model.save(folder / QUANTIZED)
        prices = [dataclasses.asdict(price) for price in made.prices]
        told = {"training_pictures": made.pictures, "ways": prices}
        files.write_json(folder / CALIBRATION, told)
        why = f"{made.method}; {made.divergence:.2g} nats from float, {_plainly(made)}"
        _write(folder, rungs, _rung(QUANTIZED, made.model, work, why=why))
        work.emit(_event(rungs[-1]))
    return Compressed.load(folder)


def _plainly(made: Quantized) -> str:
    """What plain rounding would have given."""
    plain = made.prices[0]
    text = f"{plain.nats_from_float:.2g} by plain rounding"
    lost = 0.0 if plain.accuracy is None else 100 * (made.accuracy - plain.accuracy)
    return text if lost < TELLING_POINTS else f"{text}, which loses {lost:.1f} points more"


def _next_share(rungs: list[Rung], work: Work) -> float:
    """Of the cost, what the next cut takes: halved by every one put back; 0 to stop."""
    tried = rungs[1:]
    rounds = AIMED_ROUNDS if work.is_aim else ROUNDS
    share = FIRST_SHARE / 2 ** sum(not rung.is_accepted for rung in tried)
    return share if len(tried) < rounds and share >= SMALLEST_SHARE else 0.0


def _is_there(rungs: list[Rung], current: Model, work: Work) -> bool:
    """Whether limits were what pruning is for, and they are kept."""
    last = [rung for rung in rungs if rung.is_accepted][-1]
    return work.is_aim and is_within(work.limits, current.arch, last.size_bytes, last.latency_ms)


def _rung(name: str, model: Model, work: Work, is_accepted: bool = True, *, why: str) -> Rung:
    limit = work.target.weight_limit
    file = int8_file(model) if model.qparams else random_int8_onnx(model.arch, limit)
    right, strata = validation_right(model, work), work.validation.strata
    return Rung(
        name=name,
        accuracy=balanced.balanced_mean(right, strata),
        interval=accuracy_interval(right, None, strata),
        arch=model.arch.hash,
        size_bytes=len(file),
        macs=model.arch.graph.macs,
        latency_ms=work.measure({name: Written(model.arch, file)})[name] if work.measure else None,
        is_accepted=is_accepted,
        why=why,
        latency_basis=work.latency_basis,
    )


def _event(rung: Rung) -> Event:
    verb = "kept" if rung.is_accepted else "put back"
    text = f"{rung.name} {verb}: {rung.accuracy:.2%}, {rung.size_bytes / 1000:.1f} kB, {rung.why}"
    return Event("compress", text, data=dataclasses.asdict(rung))


def _write(folder: Path, rungs: list[Rung], new: Rung) -> None:
    rungs.append(new)
    files.write_json(folder / RECORD, [dataclasses.asdict(rung) for rung in rungs])


def read_rungs(folder: Path) -> tuple[Rung, ...]:
    """The steps recorded in `folder`, none where no compression began.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return ()
    try:
        return tuple(Rung(**_read(item)) for item in json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged: {error}", fix=f"remove {folder} and compress again"
        ) from error


def _read(item: dict[str, Any]) -> dict[str, Any]:
    known = item.get("interval")
    return item | {"interval": None if known is None else tuple(known)}
