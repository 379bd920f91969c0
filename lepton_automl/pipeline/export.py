"""Write an artifact, judge it on the locked test part and seal it; and verify it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.fastest_format import elsewhere, fastest_format
from lepton_automl.artifact.formatting import decisions_of
from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.own_sizes import OwnSizes
from lepton_automl.artifact.provenance import Provenance, read_provenance
from lepton_automl.artifact.verification_process import verify_in_fresh_process
from lepton_automl.artifact.verify import (
    Request,
    checked_verdict,
    reference_predictions,
    timed_elsewhere,
)
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.config import RunConfig
from lepton_automl.core import decisions, files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.cost import boards
from lepton_automl.cost.boards import Board
from lepton_automl.cost.latency import Stopwatch, Timing
from lepton_automl.data.dataset import Dataset, LabelledFiles, map_labelled
from lepton_automl.data.opening import CODE, locate_data, open_dataset
from lepton_automl.errors import ConfigError, DataError, first_line
from lepton_automl.models import formats
from lepton_automl.models.formats import ONNX
from lepton_automl.models.model import Model
from lepton_automl.pipeline.context import RunContext
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.runs import test_set_uses
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder, locate
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView, recorded_decisions
from lepton_automl.search.finals.results import last_finalist_results

_OWN_SIZES = "test-own-sizes.npz"
"""File in the cache during a verification: pictures for formats that take any size."""


def written_outcome(artifact: Path) -> Outcome:
    """The outcome of an earlier command, from its complete artifact.

    An artifact whose files contradict each other is `broken`.

    Raises
    ------
    DataError
        If a file of the artifact cannot be read.
    """
    verdict = checked_verdict(artifact)
    if verdict.int8 is None:
        return Outcome(artifact, verdict)
    about = read_provenance(artifact)
    return Outcome(artifact, verdict, decisions=decisions_of(about, verdict))


def write_and_verify(context: RunContext, best: Model, made: CompressionResult) -> Outcome:
    """Write the artifact of a compressed net, judge it once on the test part, and seal it.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    context.report("export", f"writing {context.folder.artifact}")
    size, cache = best.arch.size, context.folder.cache
    validation = context.dataset.file_input_files("validation", size, cache)
    names, ship = _formats(context)
    watch = context.stopwatch
    if watch is not None and names:
        raise ConfigError(
            f"the artifact that is there has further formats ({', '.join(names)}), which are "
            f"measured on this machine only, and host {watch.host} measures latencies",
            fix="leave measures out of the file of hosts, or give another --out",
        )
    made_for_user = made_decisions(context.dataset, context.ledger)
    if not ship:
        ship, decision = _fastest(context, names, made, validation)
        made_for_user = (*made_for_user, decision)
    digests = writer.write_artifact(
        context.folder.artifact,
        int8=made.int8,
        float_twin=made.pruned_float,
        reference=best,
        dataset=context.dataset,
        validation=validation,
        limits=context.config.limits,
        target=context.target,
        prefer=context.config.prefer,
        judge=context.config.judge,
        finalists=last_finalist_results(context.ledger),
        latency_model=context.latency_model,
        decisions=made_for_user,
        pixel_scale=context.dataset.pixel_scale,
        refit=made.is_refit,
        channel_names=context.dataset.channel_names,
        window_stride=context.dataset.window_stride,
        input_type=context.dataset.input_type,
        reject=reject_rate(context),
        validation_groups=_group_count(context.dataset),
        formats=names,
        ship=ship,
        board=_board(context),
    )
    quiet = Timing(context.ledger, watch).reference_ms() if context.is_timed else None
    return verify_and_seal(
        context.folder,
        context.ledger,
        context.dataset,
        digests,
        best.arch.file_input,
        quiet_reference_ms=quiet,
        stopwatch=watch,
        emit=context.emit,
    )


def _formats(context: RunContext) -> tuple[tuple[str, ...], str]:
    """Further formats and the one that ships: as stated, else as in the artifact that is there.

    The format is empty where the fastest ships.
    """
    config = context.config
    stated, ship = config.formats, config.shipped_format
    about = _earlier_provenance(context.folder.artifact)
    if stated is None:
        stated = () if about is None else tuple(about.formats)
        if not ship and about is not None:
            ship = "" if about.ships_fastest else about.ship
    names = tuple(name for name in dict.fromkeys((*stated, ship)) if name not in ("", ONNX))
    return names, ship or ("" if names and config.prefer == "latency" else ONNX)


def _fastest(
    context: RunContext, names: Sequence[str], made: CompressionResult, validation: LabelledFiles
) -> tuple[str, Decision]:
    """The fastest format here, and the decision; ONNX where the files are for another device."""
    if context.latency_model is not None:
        return elsewhere(context.target.name)
    context.report("export", f"measuring the formats {', '.join((ONNX, *names))}")
    return fastest_format(
        names,
        made.int8,
        made.pruned_float,
        context.dataset.class_names,
        validation,
        context.config.limits,
        context.ledger,
    )


def _board(context: RunContext) -> Board | None:
    """The board of the command, else of the artifact that is there."""
    if context.config.board is not None:
        return boards.load(context.config.board)
    about = _earlier_provenance(context.folder.artifact)
    return None if about is None else about.board


def reject_rate(context: RunContext) -> float:
    """The share that may be rejected: as stated, else as in the artifact that is there."""
    if context.config.reject is not None:
        return context.config.reject
    about = _earlier_provenance(context.folder.artifact)
    return 0.0 if about is None else about.reject_rate


def _group_count(dataset: Dataset) -> int | None:
    """Number of groups of the validation part; None where it has none."""
    groups = dataset.validation.groups
    return None if groups is None else len({int(group) for group in groups})


def has_stated_formats(config: RunConfig, folder: Path) -> bool:
    """Whether an artifact has the formats and rejection that a command states, if it does."""
    about = _earlier_provenance(folder)
    if about is None or (config.board and about.board != boards.load(config.board)):
        return False
    if config.reject not in (None, about.reject_rate):
        return False
    if config.formats is None and not config.shipped_format:
        return True
    stated = about.formats.keys() if config.formats is None else {*config.formats}
    is_kept = config.formats is None or (config.prefer == "latency" and about.ships_fastest)
    ship = config.shipped_format or (about.ship if is_kept else ONNX)
    return {*stated, ship} - {ONNX} == {*about.formats} and ship == about.ship


def _earlier_provenance(folder: Path) -> Provenance | None:
    """What the artifact that is in a folder says of itself; None where there is none."""
    if not (folder / manifest.ABOUT).is_file():
        return None
    try:
        return read_provenance(folder)
    except DataError:  # It is written again.
        return None


def made_decisions(dataset: Dataset, ledger: LedgerView) -> tuple[Decision, ...]:
    """What was decided for the user: about the data first, then by the stages of the run."""
    return decisions.latest([*dataset.decisions, *recorded_decisions(ledger)])


def verify_and_seal(
    folder: RunFolder,
    ledger: Ledger,
    dataset: Dataset,
    digests: dict[str, str],
    shape: tuple[int, ...],
    *,
    quiet_reference_ms: float | None,
    stopwatch: Stopwatch | None = None,
    emit: Emit,
) -> Outcome:
    """Verify written files in a fresh process; add the card, the verdict and the manifest.

    Parameters
    ----------
    folder : RunFolder
        Run folder with an artifact that lacks only card, verdict and manifest.
    ledger : Ledger
        Records the use of the test part before the verification.
    dataset : Dataset
        Its test part is used.
    digests : dict of str to str
        sha256 by file, as the artifact's writer gave them.
    shape : tuple of int
        Height, width and channels of a picture, length and channels of a signal, or (window,) of
        audio.
    quiet_reference_ms : float or None
        Recorded quiet time of the reference net, milliseconds, so that all latencies of a run have
        one unit; None: measured by the verification.
    stopwatch : Stopwatch, optional
        Measures the latencies on a host; None: the verification does, on this machine.
    emit : callable
        Receives an event for each step.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    artifact = folder.artifact
    request = request_for(artifact, dataset, shape, folder.cache)
    uses = record_use(ledger, digests[manifest.INT8], request.fingerprint, emit)
    where = "" if stopwatch is None else f" on host {stopwatch.host}"
    samples = f"accuracy on {len(dataset.test)} test samples"
    emit(Event("verify", f"measuring {samples}, and latency{where}"))
    request = dataclasses.replace(
        request, test_set_uses=uses, digests=digests, quiet_reference_ms=quiet_reference_ms
    )
    verdict = verify_in_fresh_process(timed_elsewhere(request, stopwatch))
    if request.own_sizes is not None:
        files.remove(request.own_sizes)
    inputs, _ = map_labelled(dataset.file_input_files("test", _size(shape), folder.cache))
    predictions = reference_predictions(artifact, inputs)
    about = read_provenance(artifact)
    text = card(verdict, about)
    writer.seal(artifact, digests, verdict=verdict, card=text, predictions=predictions)
    return Outcome(artifact, verdict, decisions=decisions_of(about, verdict))


def record_use(ledger: Ledger, sha256: str, fingerprint: str, emit: Emit) -> int:
    """Record, before the verification, that a file is verified on a test part.

    Parameters
    ----------
    ledger : Ledger
        The run's ledger.
    sha256 : str
        Of `model.int8.onnx`; its float twin and the reference belong to it.
    fingerprint : str
        Of the test part.
    emit : callable
        Receives an event where the user's state folder cannot be used; then only the verifications
        of this run count.

    Returns
    -------
    int
        `test_set_uses` of the verdict.
    """
    ledger.record(EventKind.TEST_SET_USE, f"{sha256}:{fingerprint}", {})
    return _count(sha256, fingerprint, recorded_uses(ledger, fingerprint), emit)


def recorded_uses(ledger: LedgerView, fingerprint: str) -> tuple[str, ...]:
    """sha256 of the files that were verified on a test part in this run, in order."""
    keys = (key.split(":") for key in ledger.keys(EventKind.TEST_SET_USE))
    return tuple(sha256 for sha256, part in keys if part == fingerprint)


def _count(sha256: str, fingerprint: str, in_run: Sequence[str], emit: Emit) -> int:
    try:
        by_user = test_set_uses.record(fingerprint, sha256)
    except (OSError, ValueError) as error:
        path = test_set_uses.state_folder() / test_set_uses.FILE_NAME
        text = f"{path} cannot be used: {first_line(error)}; it counts the files that are verified "
        text += "on a test set, here only those of this run are counted. Make it writable, delete "
        text += f"it if it is damaged, or name another folder in {test_set_uses.STATE_DIR}"
        emit(Event("verify", text))
        by_user = ()
    return test_set_uses.count(sha256, in_run, by_user)


def request_for(folder: Path, dataset: Dataset, shape: tuple[int, ...], cache: Path) -> Request:
    """The request to verify an artifact on the test part of `dataset`.

    With its validation part too, if `dataset` is what the artifact was made from.
    """
    size = _size(shape)
    made_files = dataset.file_input_files("test", size, cache)
    groups, recordings = dataset.test.groups, dataset.test.recordings
    validation, validation_groups = None, None
    if len(dataset.validation) and read_provenance(folder).data_fingerprint == dataset.fingerprint:
        made = dataset.file_input_files("validation", size, cache)
        validation, validation_groups = (made.pixels, made.labels), dataset.validation.groups
    own_sizes = None
    if any(formats.load(name).takes_any_size for name in _known_formats(folder)):
        own_sizes = OwnSizes.of(dataset, "test").write(cache / _OWN_SIZES)
    return Request(
        own_sizes=own_sizes,
        validation=validation,
        validation_groups=None
        if validation_groups is None
        else tuple(int(group) for group in validation_groups),
        folder=folder,
        pixels=made_files.pixels,
        labels=made_files.labels,
        fingerprint=dataset.part_fingerprint("test"),
        groups=None if groups is None else tuple(int(group) for group in groups),
        recordings=None if recordings is None else tuple(int(number) for number in recordings),
    )


def _known_formats(folder: Path) -> list[str]:
    """Further formats of an artifact that this version has."""
    return [name for name in read_provenance(folder).formats if name in formats.names()]


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an input; (1, length) of a signal or of audio."""
    return (shape[0], shape[1]) if len(shape) == 3 else (1, shape[0])


def data_of(
    folder: Path, data: str | None, data_object: object | None, test: Path | None, emit: Emit
) -> Dataset:
    """The data that an artifact is verified on; parameters as of `pipeline.verify.verify`."""
    about = read_provenance(folder)
    settings: dict[str, Any] = {}
    definition = _definition_of(folder, data)
    if definition is not None:
        data = definition.data
        settings = {
            "data_object": data_object,
            "seed": definition.seed,
            "skip_corrupt": definition.skip_corrupt,
            "pixel_scale": definition.pixel_scale,
            "channels": definition.channels,
            "group": definition.group or None,
            "time": definition.time or None,
            "part_names": definition.parts or None,
            "columns": definition.columns or None,
            "root": Path(definition.root) if definition.root else None,
            "channel_axis": definition.channel_axis,
            "window": definition.window or None,
            "stride": definition.stride or None,
            "rate": definition.rate or None,
        }
        test = test or (Path(definition.test) if definition.test else None)
    else:
        settings = {"data_object": data_object}
        if len(about.input) == 3 and about.input[-1] == 4:
            settings["channels"] = "4"
    assert data is not None, "data are given where the run does not define them"
    settings["input_type"] = about.input_kind
    dataset = open_dataset(
        data,
        test=test,
        known_scale=about.known_scale,
        known_front_end=about.front_end,
        emit=emit,
        **settings,
    )
    if set(dataset.class_names) != set(about.class_names):
        raise DataError(
            f"{data} has the classes {', '.join(dataset.class_names)}, the artifact was made for "
            f"{', '.join(about.class_names)}",
            fix="give data with the same classes",
        )
    return dataset.matched_to(
        about.class_names, 1 if about.front_end is not None else about.input[-1]
    )


def _definition_of(folder: Path, data: str | None) -> Definition | None:
    """The definition of the run whose data are read; None where other data are given.

    Code that a run folder names is run only where the command names it too: the folder may be
    another user's.
    """
    try:
        definition = locate(folder).definition()
    except DataError as error:
        if data is not None:
            return None
        raise DataError(
            f"{folder} is not in its run folder, so its data are not known",
            fix=f"give the data: lepton verify {folder} DATA",
        ) from error
    if data is not None:
        is_named_code = definition.data_kind == CODE and data == definition.data
        return definition if is_named_code else None
    if CODE in (definition.data_kind, definition.test_kind):
        is_object = definition.data.startswith("<")
        raise DataError(
            f"the data of this run are made by Python code, {definition.data}, which verify does "
            "not run unasked",
            fix=f"give the object: lepton_automl.verify({str(folder)!r}, DATASET)"
            if is_object
            else f"name it, which runs it: lepton verify {folder} {definition.data}",
        )
    definition.find_data(f"lepton verify {folder} DATA")
    _check_kind(definition)
    return definition


def _check_kind(definition: Definition) -> None:
    """Check that the data of a run are still read by the source that read them.

    Raises
    ------
    DataError
        If another one reads them: a folder was replaced by a file, or a plug-in was installed.
    """
    kind = locate_data(definition.data).kind
    if definition.data_kind and kind and kind != definition.data_kind:
        raise DataError(
            f"the data of this run, {definition.data}, were read as {definition.data_kind}, now "
            f"they are {kind}",
            fix="put them back, or give the data: lepton verify ARTIFACT DATA",
        )


def uses_again(request: Request, digests: Mapping[str, str], emit: Emit) -> int:
    """Record that the int8 file of an artifact is verified again, and count the files up to it."""
    folder, sha256 = request.folder, digests[manifest.INT8]
    try:
        with locate(folder).read_ledger() as ledger:
            in_run = recorded_uses(ledger, request.fingerprint)
    except DataError:
        in_run = ()
    except ConfigError as error:  # The artifact can be used without its run.
        text = f"{error.what}; the files that were verified in this run are not counted"
        emit(Event("verify", text))
        in_run = ()
    return _count(sha256, request.fingerprint, in_run, emit)
