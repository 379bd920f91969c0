"""Compressing a model made elsewhere: quantized, repaired, written, and proven like our own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from lepton_automl import __version__
from lepton_automl.artifact import limits as judging
from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.provenance import Provenance, read_provenance
from lepton_automl.artifact.verify import (
    reference_predictions,
    verify_in_fresh_process,
)
from lepton_automl.compress.context import DEFAULT_MAX_DROP
from lepton_automl.compress.external.load import load_external
from lepton_automl.compress.external.mixed_precision import keep_layers_float
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.quantize import (
    ExternalQuantization,
    Quantizer,
    predict_file,
    quantize_external,
)
from lepton_automl.config import Limits, Prefer
from lepton_automl.core import files as durable
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import Dataset, LabelledTensors, load_labelled, open_dataset
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.metrics.intervals import is_near_chance
from lepton_automl.metrics.paired import Evidence
from lepton_automl.models.onnx_file import slimmed
from lepton_automl.pipeline import charts
from lepton_automl.pipeline.export import Outcome, log_opening, request_for
from lepton_automl.runs.ledger import Ledger

STAGE = "compress"
REQUEST, FLOAT_FILE, STEPS = "request.json", "float.onnx", "steps.json"
MADE = "made"
"""Folder of the files that were tried, until the artifact is sealed."""


@dataclass(frozen=True)
class Order:
    """What is to be compressed, on what, within what."""

    model: Path
    data: str
    out: Path
    test: Path | None = None
    preprocessing: Path | None = None
    limits: Limits = field(default_factory=Limits)
    prefer: Prefer = "size"
    target: str = "x86-any"
    seed: int = 0
    skip_corrupt: bool = False


@dataclass(frozen=True)
class Step:
    """One file that was tried, judged on validation."""

    name: str
    accuracy: float
    """Share of validation samples that are right, 0 to 1."""
    interval: tuple[float, float]
    """95 %."""
    drop: float
    """Points below the float model on the same samples."""
    size_bytes: int
    latency_ms: float
    kept_float: int
    """Layers that stay float."""
    is_accepted: bool
    why: str


def compress_model(order: Order, *, emit: Emit = silent) -> Outcome:
    """Quantize a float ONNX classifier, repair what int8 breaks, and prove the written file.

    Raises
    ------
    DataError
        If the model or the data cannot be used.
    ConfigError
        If an option is wrong, or another model lies in the folder.
    """
    dataset = open_dataset(
        order.data, test=order.test, seed=order.seed, skip_corrupt=order.skip_corrupt, emit=emit
    )
    wanted = _checked(order, dataset)
    artifact = order.out / "artifact"
    if manifest.is_complete(artifact):
        emit(Event(STAGE, f"compressed before: {artifact}"))
        return Outcome(artifact, writer.read_verdict(artifact))
    emit(Event(STAGE, f"opening {order.model} in a process of its own"))
    with tempfile.TemporaryDirectory() as folder:
        made_in = Path(folder) / FLOAT_FILE
        model = load_external(order.model, order.preprocessing, dataset.class_names, made_in)
    # A model that was refused leaves nothing behind.
    durable.write_json(order.out / REQUEST, wanted)
    durable.write(order.out / FLOAT_FILE, model.file)
    dataset = dataset.matched_to(model.class_names, model.shape[2])
    made, steps = Compression(order, model, dataset, emit).run()
    return _proven(order, model, dataset, made, steps, emit)


class Compression:
    """From a float model to the int8 file that is kept.

    Parameters
    ----------
    order : Order
        Limits and target.
    model : ExternalModel
        Float.
    dataset : Dataset
        In the model's order of classes and channels.
    emit : callable
        Is told.
    """

    def __init__(self, order: Order, model: ExternalModel, dataset: Dataset, emit: Emit) -> None:
        self._order, self._model, self._emit = order, model, emit
        size, cache = model.shape[:2], order.out / "cache"
        train = load_labelled(dataset.decoded_files("train", size, cache))
        self._validation: LabelledTensors = load_labelled(
            dataset.decoded_files("validation", size, cache)
        )
        ids = balanced(train.labels, PICTURES, order.seed)
        limit = targets.load(order.target).weight_limit
        self._quantizer = Quantizer(train.pixels[ids].numpy(), limit, order.out / MADE)
        self._watch = Stopwatch()
        self._right = self._answered(model.file)
        self._classes = len(dataset.class_names)

    def run(self) -> tuple[ExternalQuantization, list[Step]]:
        """The file that is kept, and every one that was tried."""
        self._check_float()
        steps = [self._step("float", self._model.file, 0, True, "every drop counts from here")]
        self._tell(steps[-1])
        made = quantize_external(self._model, self._quantizer)
        holds = self._holds(made.file)
        why = f"{made.method}, KL divergence from float {made.kl_divergence:.2g}"
        steps.append(self._step("int8", made.file, 0, holds, why))
        self._tell(steps[-1])
        if not holds:
            for fix in keep_layers_float(made, self._quantizer, self._holds, self._tried):
                made, count = fix.made, len(fix.nodes)
                why = f"in float: {', '.join(name.removeprefix('net/') for name in fix.nodes[:3])}"
                why += ", ..." if count > 3 else ""
                steps.append(self._step(f"int8, {count} float", made.file, count, fix.holds, why))
                self._tell(steps[-1])
        return made, steps

    def _check_float(self) -> None:
        share, chance = float(self._right.correct.mean()), 1 / self._classes
        if is_near_chance(share, self._classes):
            raise DataError(
                f"the float model gets {share:.1%} of {len(self._right.correct)} validation "
                f"pictures right, guessing would get {chance:.1%}: its pictures are prepared "
                f"otherwise ({self._model.preprocessing}), or its classes are in another order "
                f"({', '.join(self._model.class_names[:5])}, ...)",
                fix="say how with --preprocessing; rename the class folders so that their "
                "alphabetical order is that of the outputs",
            )

    def _answered(self, file: bytes) -> Evidence:
        data = self._validation
        right = predict_file(file, data.pixels.numpy()).argmax(1) == data.labels.numpy()
        return Evidence(right, None, data.strata, data.labels.numpy())

    def _holds(self, file: bytes) -> bool:
        limits, found = self._order.limits, self._answered(file)
        allowed = DEFAULT_MAX_DROP if limits.max_drop is None else limits.max_drop
        holds = judging.paired(self._right, found).points <= allowed + 1e-9
        if limits.max_class_drop is None or not holds:
            return holds
        return judging.worst_class_drop(self._right, found) <= limits.max_class_drop + 1e-9

    def _step(self, name: str, file: bytes, count: int, is_accepted: bool, why: str) -> Step:
        found = self._answered(file)
        drop = judging.paired(self._right, found).points
        small = slimmed(file)
        latency = self._watch.measure({name: small})[name].median_ms
        return Step(
            name, found.accuracy, found.interval, drop, len(small), latency, count, is_accepted, why
        )

    def _tell(self, step: Step) -> None:
        verb = "kept" if step.is_accepted else "not enough"
        text = (
            f"{step.name} {verb}: {step.accuracy:.2%}, {step.size_bytes / 1000:.1f} kB, "
            f"{1000 * step.latency_ms:.0f} us, {step.why}"
        )
        self._emit(Event(STAGE, text, data=dataclasses.asdict(step)))

    def _tried(self, text: str, share: float) -> None:
        self._emit(Event(STAGE, text, share, 1.0))


def _checked(order: Order, dataset: Dataset) -> dict[str, object]:
    """What the folder is claimed by, if it is free or this order's already."""
    path = order.out / REQUEST
    try:
        digest = durable.sha256(order.model)
    except OSError as error:
        raise DataError(
            f"{order.model} cannot be read: {error.strerror}", fix="give an ONNX file"
        ) from error
    wanted: dict[str, object] = {
        "model_sha256": digest,
        "data_fingerprint": dataset.fingerprint,
        "preprocessing": None if order.preprocessing is None else order.preprocessing.read_text(),
        "limits": order.limits.stated,
        "prefer": order.prefer,
        "target": order.target,
    }
    if not path.is_file():
        if order.out.is_dir() and any(order.out.iterdir()):
            raise ConfigError(
                f"{order.out} is not empty and holds no compression",
                fix="give a new folder with --out",
            )
        return wanted
    known = json.loads(path.read_text())
    if known != wanted:
        changed = [name for name in wanted if known.get(name) != wanted[name]]
        raise ConfigError(
            f"{order.out} holds another compression, with other {', '.join(changed)}",
            fix="give another folder with --out",
        )
    return wanted


def _proven(
    order: Order,
    model: ExternalModel,
    dataset: Dataset,
    made: ExternalQuantization,
    steps: list[Step],
    emit: Emit,
) -> Outcome:
    """Write the files, open the test part once, judge, seal."""
    folder, size = order.out / "artifact", model.shape[:2]
    durable.write_json(order.out / STEPS, [dataclasses.asdict(step) for step in steps])
    charts.write_steps(order.out, steps)
    emit(Event("export", f"writing {folder}"))
    small = slimmed(model.file)
    files = {manifest.INT8: slimmed(made.file), manifest.FLOAT: small, manifest.REFERENCE: small}
    validation = dataset.decoded_files("validation", size, order.out / "cache")
    about = _about(order, model, dataset, made)
    digests = writer.write_external_artifact(folder, about, files, validation)
    request = request_for(folder, dataset, model.shape, order.out / "cache")
    ledger = Ledger(order.out / "ledger.db")
    try:
        opened = log_opening(ledger, digests[manifest.INT8], request.fingerprint)
    finally:
        ledger.close()
    emit(Event("verify", f"{len(dataset.test)} test pictures, in a fresh process"))
    request = dataclasses.replace(request, openings=opened, digests=digests)
    verdict = verify_in_fresh_process(request)
    predictions = reference_predictions(folder, dataset.pixels("test", size))
    text = card(verdict, read_provenance(folder))
    writer.seal(folder, digests, verdict=verdict, card=text, predictions=predictions)
    shutil.rmtree(order.out / MADE, ignore_errors=True)
    return Outcome(folder, verdict)


def _about(
    order: Order, model: ExternalModel, dataset: Dataset, made: ExternalQuantization
) -> Provenance:
    layers = ", ".join(name.removeprefix("net/") for name in made.kept_float) or "none"
    notes = (
        f"Made elsewhere; sha256 of the file that was given: {durable.sha256(order.model)}.",
        f"Pictures are prepared inside the file: {model.preprocessing}.",
        f"Quantized with ONNX Runtime's quantizer: {made.method}; layers left in float: {layers}.",
        "Drops count from the float model. Accuracy is only honest where the model was not "
        "trained on the test pictures; lepton cannot know.",
    )
    return Provenance(
        lepton=__version__,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        class_names=model.class_names,
        input=model.shape,
        target=order.target,
        prefer=order.prefer,
        limits=order.limits,
        balanced=dataset.validation.is_balanced,
        origin="foreign",
        notes=notes,
    )
