"""Quantize an ONNX model made elsewhere, and verify the written file."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.provenance import Provenance
from lepton_automl.compress.context import DEFAULT_MAX_DROP
from lepton_automl.compress.external import graph_process, plausibility
from lepton_automl.compress.external.class_order import ORDERS
from lepton_automl.compress.external.graph_process import (
    LimitedStopwatch,
    graph_cost,
    predict_file,
)
from lepton_automl.compress.external.load import load_external
from lepton_automl.compress.external.mixed_precision import keep_layers_float
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.quantize import (
    ExternalQuantization,
    Quantizer,
    quantize_external,
)
from lepton_automl.compress.steps import StepRecord, write_steps
from lepton_automl.config import RunConfig
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.units import bytes_text, time_text
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.core.version import __version__
from lepton_automl.cost.latency import Timing
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import Dataset, LabelledTensors
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.metrics import paired
from lepton_automl.metrics.paired import Evidence
from lepton_automl.models.onnx_file import slimmed
from lepton_automl.pipeline import charts
from lepton_automl.pipeline.context import (
    data_places,
    open_ledger,
    open_run_data,
    part_options,
    use_one_thread,
)
from lepton_automl.pipeline.export import made_decisions, verify_and_seal, written_outcome
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.pipeline.resources import resolve
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import record_decision

_STAGE = "compress"
_FLOAT_FILE = "float.onnx"
_TRIED = "tried"
"""Folder of the tried files, until the artifact is sealed."""


def compress_model(
    config: RunConfig,
    source: Path,
    preprocessing: Path | None = None,
    *,
    labels: str | None = None,
    expects: float | None = None,
    emit: Emit = silent,
) -> Outcome:
    """Quantize a float ONNX classifier, keep layers that lose accuracy in float, verify the file.

    Parameters
    ----------
    config : RunConfig
        Data, limits, target, folder.
    source : Path
        The ONNX file.
    preprocessing : Path, optional
        File with the preprocessing; None: taken from the model's metadata or files beside it.
    labels : str, optional
        `natural`, `text`, or a file with the class names in the order of the outputs.
    expects : float, optional
        Accuracy that the float model should reach on training pictures, as share or per cent.
    emit : callable
        Receives progress.

    Raises
    ------
    DataError
        If the model or the data cannot be used, or the float model gets so few training pictures
        right that pixels or classes are probably read in a wrong way.
    ConfigError
        If an option is wrong, or another run lies in the folder.
    """
    started = time.monotonic() if config.started is None else config.started
    use_one_thread()
    resources = resolve(config)
    if resources.target.weight_scales == "layer":
        raise ConfigError(
            f"--target {resources.target.name} needs one scale per layer, and models made "
            "elsewhere get one per channel",
            fix="take another target, such as --target arm64",
        )
    expected = _expected(expects)
    definition = _definition(config, source, preprocessing, labels)
    dataset = _pictures(config, emit)
    definition = replace(definition, data_fingerprint=dataset.fingerprint)
    folder = RunFolder(config.out)
    folder.check_claim(definition, fresh=config.fresh)
    if not config.fresh and manifest.is_complete(folder.artifact):
        emit(Event(_STAGE, f"already compressed: {folder.artifact}; --fresh starts again"))
        return written_outcome(folder.artifact)
    emit(Event(_STAGE, f"checking {source} in a separate process"))
    model = load_external(source, preprocessing, dataset.class_names, labels=labels)
    graph_process.start_process()
    dataset = _as_the_model_reads(dataset, model, config)
    warning = plausibility.order_warning(model)
    if warning:
        emit(Event(_STAGE, f"warning: {warning}"))
    decided = plausibility.check_plausible(model, _sample(dataset, model), expected)
    # Only now, so that a rejected model leaves no folder.
    with (
        folder.claimed(definition, fresh=config.fresh) as lock,
        open_ledger(folder, lock, started, config, emit) as (ledger, emit),
    ):
        for decision in decided:
            record_decision(ledger, decision)
        place = folder.models / f"compressed-{definition.model[:8]}"
        files.write(place / _FLOAT_FILE, model.file)
        timing = Timing(ledger, LimitedStopwatch(model.shape))
        compression = _Compression(
            config, resources.target, model, dataset, folder, place, timing, emit
        )
        quantization, steps = compression.run()
        record_decision(ledger, _quantization_decision(quantization))
        write_steps(place, steps)
        charts.write_compression_chart(folder.path, steps)
        made = made_decisions(dataset, ledger)
        digests = _written(config, definition, model, dataset, quantization, made, folder, emit)
        outcome = verify_and_seal(
            folder,
            ledger,
            dataset,
            digests,
            model.shape,
            quiet_reference_ms=timing.reference_ms(),
            emit=emit,
        )
        files.remove_folder(place / _TRIED)
    return outcome


def _pictures(config: RunConfig, emit: Emit) -> Dataset:
    """Open the data; only pictures are accepted."""
    dataset = open_run_data(config, emit)
    if dataset.kind != "pictures":
        raise DataError(
            f"{config.data} holds {dataset.kind}; models made elsewhere are read for pictures only",
            fix=f"search a net for these {dataset.kind}: lepton run DATA",
        )
    return dataset


def _as_the_model_reads(dataset: Dataset, model: ExternalModel, config: RunConfig) -> Dataset:
    """The pictures with the channels, the classes and the resizing of the model."""
    if dataset.channels not in (1, 3):
        raise DataError(
            f"{config.data} holds pictures with {dataset.channels} channels; models made elsewhere "
            "are read for grey and RGB pictures",
            fix="give grey or RGB pictures",
        )
    dataset = dataset.with_8_bits().matched_to(model.class_names, model.shape[2])
    return replace(dataset, framing=None if model.pixels is None else model.pixels.framing)


class _Compression:
    """Quantization of one external model, with a record of each step.

    Parameters
    ----------
    config : RunConfig
        Limits and seed.
    target : Target
        Range of the int8 weights.
    model : ExternalModel
        The float model.
    dataset : Dataset
        With the model's order of classes and its channels.
    folder : RunFolder
        Decoded pictures are cached in it.
    place : Path
        Folder for the tried files.
    timing : Timing
        Measures and records latencies.
    emit : callable
        Receives an event for each step.
    """

    def __init__(
        self,
        config: RunConfig,
        target: Target,
        model: ExternalModel,
        dataset: Dataset,
        folder: RunFolder,
        place: Path,
        timing: Timing,
        emit: Emit,
    ) -> None:
        self._limits, self._model, self._timing, self._emit = config.limits, model, timing, emit
        size, cache = model.shape[:2], folder.cache
        train = load_labelled(dataset.decoded_files("train", size, cache))
        self._validation: LabelledTensors = load_labelled(
            dataset.decoded_files("validation", size, cache)
        )
        ids = balanced(train.labels, PICTURES, config.seed)
        pixels = train.pixels[ids].numpy()
        self._quantizer = Quantizer(pixels, target.weight_limit, place / _TRIED)
        self._reference = self._evaluate(model.file)

    def run(self) -> tuple[ExternalQuantization, list[StepRecord]]:
        """Quantize, and leave layers in float until the drop is within the limits."""
        why = "the given model; drops are measured against it"
        steps = [self._step("float", self._model.file, 0, True, why)]
        self._report(steps[-1])
        made = quantize_external(self._model, self._quantizer)
        holds = self._is_within_limits(made.file)
        why = f"{made.method}; KL divergence from float {made.kl_divergence:.2g}"
        steps.append(self._step("int8", made.file, 0, holds, why))
        self._report(steps[-1])
        if not holds:
            for fix in keep_layers_float(
                made, self._quantizer, self._is_within_limits, self._report_progress
            ):
                made, count = fix.made, len(fix.nodes)
                why = f"in float: {', '.join(name.removeprefix('net/') for name in fix.nodes[:3])}"
                why += ", ..." if count > 3 else ""
                steps.append(self._step(f"int8, {count} float", made.file, count, fix.holds, why))
                self._report(steps[-1])
        return made, steps

    def _evaluate(self, file: bytes) -> Evidence:
        data = self._validation
        right = predict_file(file, data.pixels.numpy()).argmax(1) == data.labels.numpy()
        return Evidence(right, None, data.strata, data.labels.numpy())

    def _drop(self, file: Evidence) -> float:
        """Accuracy points that a file loses against the model, on validation."""
        before = self._reference.correct
        return paired.paired_drop(before, file.correct, file.groups, file.strata).points

    def _is_within_limits(self, file: bytes) -> bool:
        limits, evidence = self._limits, self._evaluate(file)
        allowed = DEFAULT_MAX_DROP if limits.max_drop is None else limits.max_drop
        holds = self._drop(evidence) <= allowed + 1e-9
        if limits.max_class_drop is None:
            return holds
        drops = paired.class_drops(self._reference, evidence).values()
        return holds and max(drop.points for drop in drops) <= limits.max_class_drop + 1e-9

    def _step(self, name: str, file: bytes, count: int, is_accepted: bool, why: str) -> StepRecord:
        evidence, small = self._evaluate(file), slimmed(file)
        return StepRecord(
            name=name,
            accuracy=evidence.accuracy,
            arch="",
            size_bytes=len(small),
            macs=graph_cost(small, 4 if name == "float" else 1).macs,
            latency_ms=self._timing.milliseconds_of({name: small})[name],
            is_accepted=is_accepted,
            why=why,
            interval=evidence.interval,
            drop=self._drop(evidence),
            float_layers=count,
        )

    def _report(self, step: StepRecord) -> None:
        verb = "accepted" if step.is_accepted else "rejected"
        text = (
            f"{step.name} {verb}: {step.accuracy:.2%} on validation, {step.drop:.2f} points below "
            f"float, {bytes_text(step.size_bytes)}, {time_text(step.latency_ms or 0.0)}; {step.why}"
        )
        self._emit(Event(_STAGE, text, data=dataclasses.asdict(step)))

    def _report_progress(self, text: str, share: float) -> None:
        self._emit(Event(_STAGE, text, share, 1.0))


def _quantization_decision(made: ExternalQuantization) -> Decision:
    evidence = f"the least KL divergence from float of the methods tried, {made.kl_divergence:.2g}"
    evidence += f"; layers left in float: {len(made.kept_float)}"
    return Decision("quantization", made.method, evidence, "measured", "", is_detail=True)


def _expected(given: float | None) -> float | None:
    """The value of --expects as a share."""
    if given is not None and not 0 < given <= 100:
        raise ConfigError(
            f"--expects {given:g}, the rule is a share up to 1 or per cent up to 100",
            fix="give the accuracy that the float model reached, such as 0.93",
        )
    return given / 100 if given is not None and given > 1 else given


def _sample(dataset: Dataset, model: ExternalModel) -> plausibility.Sample:
    """Training pictures, evenly spaced, so that classes have their shares."""
    count = min(plausibility.PICTURES, len(dataset.train))
    places = np.linspace(0, len(dataset.train) - 1, count).round().astype(np.int64)
    size = model.shape[:2]
    whole = replace(dataset, framing=None)
    return plausibility.Sample(
        dataset.pixels("train", size, places),
        dataset.train.labels[places],
        None if dataset.framing is None else whole.pixels("train", size, places),
    )


def _definition(
    config: RunConfig, source: Path, preprocessing: Path | None, labels: str | None
) -> Definition:
    """The definition of the compression of an ONNX file, without the fingerprint of the data."""
    fix = "give an ONNX file, a TOML or JSON file with --preprocessing, and natural, text or a "
    fix += "text file with --labels"
    digest = untrusted_files.sha256(source, MODEL, fix=fix)
    text = "" if preprocessing is None else untrusted_files.read_text(preprocessing, fix=fix)
    order = labels
    if labels is not None and labels not in ORDERS:
        order = untrusted_files.read_text(Path(labels), fix=fix)
    return Definition(
        **data_places(config),
        skip_corrupt=config.skip_corrupt,
        **part_options(config),
        data_fingerprint="",
        space="",
        space_digest="",
        objectives=(),
        seed=config.seed,
        target=config.target,
        prefer=config.prefer,
        judge=config.judge,
        limits=config.limits,
        model=digest,
        preprocessing=text,
        labels=order or "",
    )


def _written(
    config: RunConfig,
    definition: Definition,
    model: ExternalModel,
    dataset: Dataset,
    made: ExternalQuantization,
    decisions: tuple[Decision, ...],
    folder: RunFolder,
    emit: Emit,
) -> dict[str, str]:
    """Write the artifact's files; their digests."""
    emit(Event("export", f"writing {folder.artifact}"))
    small = slimmed(model.file)
    files = {manifest.INT8: slimmed(made.file), manifest.FLOAT: small, manifest.REFERENCE: small}
    layers = ", ".join(name.removeprefix("net/") for name in made.kept_float) or "none"
    notes = (
        f"Made elsewhere; sha256 of the file that was given: {definition.model}.",
        f"Pictures are prepared inside the file: {model.preprocessing}.",
        f"Quantized with ONNX Runtime's quantizer: {made.method}; layers left in float: {layers}.",
        "Drops are measured against the float model. Accuracy is only honest where the model was "
        "not trained on the test pictures; lepton cannot know.",
    )
    about = Provenance(
        lepton=__version__,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        class_names=model.class_names,
        input=model.shape,
        target=config.target,
        prefer=config.prefer,
        judge=config.judge,
        limits=config.limits,
        balanced=dataset.validation.is_balanced,
        origin="foreign",
        notes=notes,
        decisions=decisions,
        pixel_scale="" if dataset.pixel_scale is None else dataset.pixel_scale.name,
    )
    validation = dataset.decoded_files("validation", model.shape[:2], folder.cache)
    return writer.write_external_artifact(folder.artifact, about, files, validation)
