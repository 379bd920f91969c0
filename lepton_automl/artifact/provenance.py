"""Where an artifact comes from: data, search, finalists."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lepton_automl.artifact.manifest import ABOUT, FRESH, MALFORMED, unusable
from lepton_automl.config import Judge, Limits
from lepton_automl.core import untrusted_files
from lepton_automl.core.decisions import SHIPPING_FORMAT, Decision
from lepton_automl.core.field_types import check_types
from lepton_automl.cost.boards import Board
from lepton_automl.cost.boards import from_fields as board_from_fields
from lepton_automl.cost.latency_model import LatencyModel, from_document
from lepton_automl.data.pictures.pixel_scale import PixelScale
from lepton_automl.data.pictures.pixel_scale import parse as parse_scale
from lepton_automl.models.formats import ONNX
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.quantization import INPUT_TYPES


@dataclass(frozen=True)
class Provenance:
    """Origin of an artifact, as recorded in `about.json`."""

    lepton: str
    """Version that wrote the artifact."""
    data: str
    data_fingerprint: str
    class_names: tuple[str, ...]
    input: tuple[int, ...]
    """Height, width, channels of a picture; length, channels of a signal; (window,) of sound."""
    target: str
    prefer: str
    limits: Limits
    latency: LatencyModel | None = None
    """Latency model of the target device; None: latencies are measured on the verifying machine."""
    finalists: tuple[FinalistResult, ...] = ()
    """Finalists of the search after their final trainings."""
    balanced: bool = False
    """Accuracies and drops are balanced: the mean over classes."""
    origin: str = "lepton"
    """`lepton`, or `foreign` for an external model, which has no `Arch`."""
    refit: bool = False
    """Whether the net that ships was trained on the validation part too, once all choices were
    made."""
    judge: Judge = "auto"
    """What limits on accuracy apply to, as in `RunConfig`; `windows` in artifacts made before it
    was recorded."""
    pixel_scale: str = ""
    """Black and white of the stored pixels of the data, as `--pixel-scale` takes them; empty where
    all had 8 bits."""
    input_type: str = ""
    """Type of the input of the files; empty where it is the usual one of its shape."""
    channel_names: tuple[str, ...] = ()
    """Of the channels of a signal; empty where they are not known."""
    window_stride: int = 0
    """Values from the start of one window of a signal to the next; 0 where samples are not windows
    of recordings, or it was not recorded."""
    notes: tuple[str, ...] = ()
    """Preprocessing and quantization of an external model, one sentence each."""
    decisions: tuple[Decision, ...] = ()
    """What was decided for the user, from the data to the written file."""
    front_end: LogMel | None = None
    """What the files compute of sound before the net; None where they read other samples."""
    formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a further file format -> paths of its files inside the artifact."""
    ship: str = ONNX
    """Format that ships: a name in `formats`, or that of the ONNX files."""
    board: Board | None = None
    """Board that the net is for; None: none was named."""
    reject_rate: float = 0.0
    """Share of samples of the classes that may be rejected ("none of these"); 0: not asked for."""
    reject_below: Mapping[str, float] = field(default_factory=dict)
    """Name of an ONNX file -> probability below which it rejects; empty: there is no threshold.
    Further formats have that of the int8 file."""

    @property
    def known_scale(self) -> PixelScale | None:
        """Black and white of the stored pixels of the data; None: those of 8 bits."""
        return parse_scale(self.pixel_scale) if self.pixel_scale else None

    @property
    def input_kind(self) -> str:
        """Type of the input of the files."""
        return self.input_type or ("int16", "float32", "uint8")[len(self.input) - 1]

    @property
    def ships_fastest(self) -> bool:
        """Whether the format that ships was chosen by its time, not by the user."""
        return any(decision.name == SHIPPING_FORMAT for decision in self.decisions)

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote; raises where a field is missing or of another type."""
        body = untrusted_files.parse_json(text, ABOUT, fix=FRESH, top=dict, finite=False)
        body["limits"] = Limits(**body["limits"])
        body["finalists"] = tuple(FinalistResult.from_dict(c) for c in body.get("finalists", ()))
        if body.get("latency") is not None:
            body["latency"] = from_document(body["latency"])
        for name in ("notes", "channel_names"):
            body[name] = tuple(body.get(name, ()))
        decisions = body.get("decisions", ())
        body["decisions"] = tuple(Decision.from_document(each) for each in decisions)
        if body.get("front_end") is not None:
            body["front_end"] = LogMel.from_fields(body["front_end"])
        body.setdefault("judge", "windows")
        if body.get("board") is not None:
            body["board"] = board_from_fields(body["board"])
        stored = body.get("formats", {})
        body["formats"] = {name: tuple(paths) for name, paths in stored.items()}
        body["class_names"], body["input"] = tuple(body["class_names"]), tuple(body["input"])
        found = cls(**body)
        check_types(found)
        _check_values(found)
        return found


def _check_values(found: Provenance) -> None:
    """Raise ValueError where a value is not one that lepton writes."""
    if found.input_kind not in INPUT_TYPES:
        raise ValueError(f"input_type {found.input_type!r} is not a type of inputs")
    if found.ship not in (ONNX, *found.formats):
        raise ValueError(f"ship {found.ship!r} is not a format of the artifact")
    if not all(0 <= p <= 1 for p in (found.reject_rate, *found.reject_below.values())):
        raise ValueError("reject_rate and reject_below have to be 0 to 1")
    if found.reject_below and len(found.input) != 3:
        raise ValueError("reject_below has no effect for a net that reads no pictures")
    if found.pixel_scale and found.known_scale is None:
        raise ValueError(f"pixel_scale {found.pixel_scale!r} states no scale")


def read_provenance(folder: Path) -> Provenance:
    """Read `about.json`.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """
    path = folder / ABOUT
    try:
        return Provenance.from_json(
            untrusted_files.read_text(path, fix=FRESH, errors="surrogateescape")
        )
    except MALFORMED as error:
        raise unusable(path, error) from error


@dataclass(frozen=True)
class CrossValidation:
    """Accuracy of one recipe by cross-validation: every sample by a net not trained on it."""

    accuracy: float
    """Share of the samples of all folds classified correctly, 0 to 1; balanced accuracy where
    classes have equal weight."""
    low: float
    high: float
    """95 % interval of the accuracy."""
    folds: int
    """Number of folds, the validation part among them."""
    samples: int
    """Number of samples in them."""


@dataclass(frozen=True)
class FinalistResult:
    """Accuracy of a finalist in the search and after its final trainings."""

    number: int
    """Trial number."""
    searched: float
    """Share of validation samples right when selected; optimistic, as the best of many."""
    searched_epochs: int
    accuracies: tuple[float, ...]
    """The same share after each of its final trainings on the training part, at least one."""
    epochs: int
    """Of each final training."""
    augment: float | None = None
    """Augmentation strength, where it differs from its recipe; None: as in the recipe."""
    cross_validation: CrossValidation | None = None
    """Its accuracy on several folds; None where finalists were compared on validation alone."""

    @property
    def accuracy(self) -> float:
        """By cross-validation, else the mean over its trainings; the winner is selected by it."""
        if self.cross_validation is not None:
            return self.cross_validation.accuracy
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def spread(self) -> float:
        """Best minus worst final training; 0 if there is only one."""
        return max(self.accuracies) - min(self.accuracies)

    def document(self) -> dict[str, Any]:
        """As plain JSON values for `--json`."""
        return {
            "number": self.number,
            "searched_accuracy": self.searched,
            "searched_epochs": self.searched_epochs,
            "accuracy": self.accuracy,
            "accuracies": list(self.accuracies),
            "spread": self.spread,
            "epochs": self.epochs,
            "augment": self.augment,
            "cross_validation": self.cross_validation and dataclasses.asdict(self.cross_validation),
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """From its fields, as `dataclasses.asdict` gives them."""
        found = body.get("cross_validation")
        changed = {
            "accuracies": tuple(body["accuracies"]),
            "cross_validation": None if found is None else CrossValidation(**found),
        }
        return cls(**(body | changed))


def finalist_summary(finalists: Sequence[FinalistResult]) -> str:
    """Result of the final trainings in one sentence; empty if there were none."""
    if not finalists:
        return ""
    count = len(finalists)
    before, after = (
        100 * sum(values) / count
        for values in ([c.searched for c in finalists], [c.accuracy for c in finalists])
    )
    means = [100 * c.accuracy for c in finalists]
    subject = f"the best {count} trials were" if count > 1 else "the best trial was"
    text = f"{subject} trained from scratch with new seeds: {before:.2f} % when selected"
    text += f"{' on average' if count > 1 else ''}, {after:.2f} % after final training"
    text += f", {max(means) - min(means):.2f} points between them" if count > 1 else ""
    by_folds = finalists[0].cross_validation
    if by_folds is not None:
        text += f", by cross-validation on {by_folds.folds} folds with {by_folds.samples:,} samples"
    return text + "".join(
        f", trial {c.number} with augment {c.augment:g}" for c in finalists if c.augment is not None
    )
