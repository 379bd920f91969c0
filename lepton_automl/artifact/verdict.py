"""The result of verification: metrics of each file, and whether the stated limits hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lepton_automl.core import untrusted_files
from lepton_automl.core.field_types import check_types, with_tuples
from lepton_automl.core.machine import Machine
from lepton_automl.cost.boards import BoardFit
from lepton_automl.cost.boards import from_fields as board_from_fields
from lepton_automl.cost.latency_model import Basis
from lepton_automl.errors import DataError, LeptonError, VerdictError, first_line
from lepton_automl.models.formats import ONNX

Status = Literal["holds", "broken", "undecided"]
Precision = Literal["int8", "float"]
LimitsOn = Literal["samples", "recordings"]
Interval = tuple[float, float]

ACCURACY_LIMITS = frozenset({"min_accuracy", "max_drop", "max_class_drop"})
"""Limits that apply to recordings where `limits_on` says so."""


@dataclass(frozen=True)
class TargetLatency:
    """Latency of a file on its target device, where it was not measured there."""

    latency_ms: float
    latency_interval: Interval
    basis: Basis
    """`predicted` from a table that the device measured, or `estimated` from assumed speeds."""
    device: str


@dataclass(frozen=True)
class RecordingAccuracy:
    """Accuracy of the joined predictions of whole recordings (`metrics.recordings`)."""

    accuracy: float
    """0 to 1; balanced accuracy in a `balanced` verdict."""
    accuracy_interval: Interval
    """95 %, as that of the samples."""
    n_recordings: int


@dataclass(frozen=True)
class FileMetrics:
    """Everything measured on one file."""

    file: str
    """Path inside the artifact folder."""
    sha256: str
    accuracy: float
    """Share of test samples classified correctly, 0 to 1; balanced accuracy in a `balanced`
    verdict."""
    accuracy_interval: Interval
    """95 %: Wilson, or bootstrap over groups where the data has groups, within classes where these
    count alike."""
    n_samples: int
    size_bytes: int
    weight_bytes: int
    """Convolution kernels and matrices: one byte per weight in int8, four in float."""
    parameter_bytes: int
    """Those plus biases and scales."""
    macs: int
    """Multiply-accumulates per sample."""
    peak_ram_bytes: int
    """Peak of live feature maps, at one byte (int8) or four (float) per element."""
    latency_ms: float
    """At batch 1 on one thread of `Verdict.timed_on`: ratio to the reference net times its quiet
    time."""
    latency_interval: Interval
    float_nodes: tuple[str, ...]
    """Nodes that compute in float after ONNX Runtime's graph optimizations."""
    target_latency: TargetLatency | None = None
    """Latency on another device; where present, a latency limit is judged by it."""
    recordings: RecordingAccuracy | None = None
    """Of whole recordings, where test samples are several windows of one; else None."""
    flash_bytes: int | None = None
    """Code and constants on a microcontroller; None of files that are not code."""
    flash_basis: Basis = "measured"
    """`measured` by the compiler's `size`, or `predicted` (`cost.flash`) where there is none."""


@dataclass(frozen=True)
class FrontEndCost:
    """Cost of the front end of a file that reads audio; the figures of the file include it."""

    latency_ms: float
    """Of the features of one window, measured as that of the file."""
    latency_interval: Interval
    size_bytes: int
    """Of the front end as a file of its own."""


@dataclass(frozen=True)
class PairedDrop:
    """Accuracy points (0 to 100) lost from one file to another on the same samples."""

    points: float
    low: float
    high: float
    """95 %, both sides."""
    upper: float
    """One-sided 95 % upper bound of the drop."""
    n: int


@dataclass(frozen=True)
class JudgedLimit:
    """A stated limit, its measured value and its status."""

    name: str
    limit: float
    measured: float
    interval: Interval | None
    """None where the value is exact."""
    status: Status
    n_needed: int | None = None
    """About how many test samples would decide an undecided limit; None if none would."""
    basis: Basis = "measured"
    """How a latency was obtained."""
    of: int | None = None
    """Index of the class it concerns; None: all classes."""

    def __str__(self) -> str:
        text = f"{self.name} {self.limit:g}: {self.basis} {self.measured:.6g}"
        if self.interval is not None:
            text += f" [{self.interval[0]:.6g}, {self.interval[1]:.6g}]"
        text += "" if self.of is None else f" in class {self.of}"
        text += f", {self.status}"
        return text + (f" (about {self.n_needed} samples would decide)" if self.n_needed else "")


@dataclass(frozen=True)
class Parity:
    """Agreement of ONNX Runtime's int8 results with exact integer arithmetic."""

    n_samples: int
    max_steps: int
    """Largest difference of the last quantized tensor, in steps of its scale."""
    n_clear: int
    """Samples whose two most probable classes are over 1 % apart in the float file."""
    n_same_class: int
    """Number of those with the same class in ONNX Runtime and in integer arithmetic."""
    golden_difference: float
    """Largest difference of a golden probability from the stored one."""
    holds: bool
    feature_steps: int | None = None
    """Largest difference of the features of audio from float64 arithmetic, in steps of 8 bits; None
    of files without a front end."""


@dataclass(frozen=True)
class FormatFigures:
    """What was measured on the files of a further format of the same net."""

    name: str
    """Of the format (`models.formats`)."""
    file: str
    """Path inside the artifact folder of the file that a user names."""
    sha256: str
    """Of that file."""
    file_bytes: int
    """Of all its files."""
    metrics: FileMetrics | None = None
    """As of the ONNX files: accuracy on the test part, latency as that of the int8 file times
    `latency_ratio`, memory as the format states it; None where it was not run here."""
    not_run: str = ""
    """Why the files were not run on this machine; empty where they were."""
    n_same_class: int | None = None
    """Test samples that get the class of the int8 ONNX file."""
    max_difference: float | None = None
    """Largest difference of a probability from the int8 ONNX file on the test part."""
    latency_ratio: float | None = None
    """Time of a call at batch 1 against the int8 ONNX file in the same rounds."""
    latency_ratio_interval: Interval | None = None
    drop: PairedDrop | None = None
    """From the float net before pruning."""
    arena_bytes: int | None = None
    """Working memory that a caller provides; None where the format does not state it."""
    differences: tuple[str, ...] = ()
    """What the format computes otherwise than the ONNX file, one sentence each."""
    n_own_size: int | None = None
    """Test pictures that were classified in their own sizes; None where a format takes only the
    size of the net."""
    n_own_size_same_class: int | None = None
    """Of these, those that get the class of the int8 ONNX file, for which they were resized."""
    own_size_difference: float | None = None
    """Largest difference of a probability over these."""


@dataclass(frozen=True)
class RejectionFigures:
    """What the threshold for "none of these" rejects on the test part, by the ONNX file."""

    rate: float
    """Share of samples of the classes that may be rejected, as stated."""
    below: float
    """Probability below which a sample is rejected."""
    n_samples: int
    share: float
    """Of the test samples, 0 to 1, that is rejected."""
    interval: Interval
    """95 %, of that share."""
    accuracy_of_rest: float | None
    """Share of the others that is right; None where all are rejected."""
    n_shuffled: int
    share_of_shuffled: float
    """Share rejected of so many test pictures whose pixels are put in one random order: an example
    of pictures of no class, not a bound for others."""


@dataclass(frozen=True)
class CalibrationFigures:
    """How far the probabilities of the ONNX file that ships are the shares of right predictions."""

    n_samples: int
    """Test samples."""
    probability: float
    """Mean probability of the predicted classes, 0 to 1."""
    accuracy: float
    """Share of them that is right; not balanced."""
    error: float
    """Expected calibration error in 15 bins, 0 to 1 (`metrics.calibration`)."""


@dataclass(frozen=True)
class ValidationGap:
    """Accuracy on the validation part against that on the test part.

    Of the shipped file; of the reference where the shipped net was trained on the validation part.
    """

    accuracy: float
    """On the validation part, 0 to 1; balanced accuracy in a `balanced` verdict."""
    accuracy_interval: Interval
    """95 %, as that of the test part."""
    n_samples: int
    points: float
    """Accuracy points on validation above those on test; below 0: test is better."""
    interval: Interval
    """Points; 99 %, because the shipped file is the best of several on validation."""
    is_beyond_chance: bool
    """Whether the whole interval is above 0."""
    is_of_reference: bool = False


@dataclass(frozen=True)
class Verdict:
    """The result of verification; `holds` only if parity and every stated limit hold."""

    status: Status
    primary: Precision
    """The file that ships; the limits apply to it."""
    prefer: str
    limits: tuple[JudgedLimit, ...]
    problems: tuple[str, ...]
    """Errors of the files themselves, one sentence each."""
    parity: Parity | None
    int8: FileMetrics | None
    float32: FileMetrics | None
    """The pruned net in float."""
    reference: FileMetrics | None
    """The float net before pruning."""
    drops: Mapping[str, PairedDrop]
    """`int8` and `float` against the reference, `int8_against_float` against `float32`."""
    test_fingerprint: str
    test_set_uses: int
    """Different files that this user has verified on this test part, up to this one; 0 for damaged
    files, which are not measured."""
    grouped: bool
    """Intervals come from a cluster bootstrap over groups of samples."""
    machine: Machine
    balanced: bool = False
    """Accuracies are balanced: the mean recall of the classes."""
    other: Status | None = None
    """Status of the limits for the file that does not ship; None without limits."""
    validation: ValidationGap | None = None
    """How far validation and test differ; None where the validation part is not known."""
    notes: tuple[str, ...] = ()
    """What a reader has to know beside the status, one sentence each: how short the search was."""
    limits_on: LimitsOn = "samples"
    """What limits on accuracy and its drop apply to: test samples, or whole recordings by the
    joined predictions of their windows."""
    recording_drops: Mapping[str, PairedDrop] = field(default_factory=dict)
    """As `drops`, of whole recordings; empty where samples are not windows of recordings."""
    front_end: FrontEndCost | None = None
    """Part of the latency of the files that read audio; None of other files."""
    formats: tuple[FormatFigures, ...] = ()
    """Further formats of the artifact."""
    ship: str = ONNX
    """Format that ships, to which the limits apply: one of `formats`, or that of the ONNX files."""
    latency_host: str = ""
    """Host of `--hosts` that measured the latencies; empty: `machine` did."""
    latency_machine: Machine | None = None
    """What that host is."""
    board: BoardFit | None = None
    """Whether the net fits the board that was named; None: none was."""
    rejection: RejectionFigures | None = None
    calibration: CalibrationFigures | None = None
    """None if files are damaged, or the verdict is of an earlier version."""
    """Of the threshold for "none of these"; None: there is none."""

    @property
    def shipped(self) -> FileMetrics | None:
        """Metrics of the file that ships; None if files are damaged, or it was not run."""
        if (found := self.shipped_format) is not None:
            return found.metrics
        return self.int8 if self.primary == "int8" else self.float32

    @property
    def shipped_format(self) -> FormatFigures | None:
        """Figures of the format that ships; None of the ONNX files, and if files are damaged."""
        return next((one for one in self.formats if one.name == self.ship), None)

    @property
    def shipped_file(self) -> tuple[str, str] | None:
        """Path and sha256 of the file that ships; None if files are damaged."""
        found = self.shipped_format or self.shipped
        return None if found is None else (found.file, found.sha256)

    @property
    def exit_code(self) -> int:
        """0 if all holds, else 6."""
        return 0 if self.status == "holds" else VerdictError.exit_code

    @property
    def reasons(self) -> list[str]:
        """Reasons why it does not hold, one line each."""
        lines = list(self.problems)
        if self.parity is not None and not self.parity.holds:
            lines.append(
                f"parity: {self.parity.n_same_class} of {self.parity.n_clear} clear samples agree "
                f"with integer arithmetic, largest difference {self.parity.max_steps} steps"
                + (
                    f", of features {self.parity.feature_steps}"
                    if self.parity.feature_steps
                    else ""
                )
            )
        if (one := self.shipped_format) is not None and one.not_run:
            lines.append(f"{one.file} ships, but was not run here: {one.not_run}")
        return lines + [self._reason(limit) for limit in self.limits if limit.status != "holds"]

    @property
    def warnings(self) -> list[str]:
        """What makes choices of the run doubtful though limits may hold, one paragraph each."""
        gap = self.validation
        compared = self.reference if gap and gap.is_of_reference else self.shipped
        if gap is None or compared is None or not gap.is_beyond_chance:
            return []
        low, high = gap.interval
        kind = "balanced accuracy" if self.balanced else "accuracy"
        return [
            f"validation and test differ by more than chance: {kind} {100 * gap.accuracy:.1f} % on "
            f"validation, {100 * compared.accuracy:.1f} % on test, {gap.points:.1f} points apart "
            f"[{low:.1f}, {high:.1f}]. The validation part shares something with the training part "
            "that the test part does not: near copies, frames or windows of one recording, samples "
            "of one piece or person. Net, training and compression were chosen on it, so other "
            "choices may be better for new samples, for which only the accuracy on test counts. "
            "State which samples belong together (--group REGEX, or `group` in the .npz file) or "
            "give a validation part of other groups, and run again; more groups to train on help "
            "most."
        ]

    def _reason(self, limit: JudgedLimit) -> str:
        is_balanced = self.balanced and limit.name in {"min_accuracy", "max_drop"}
        text = f"{limit}{'; of balanced accuracy' * is_balanced}"
        if self.binds_recordings(limit.name):
            text = text.replace(" samples would decide", " recordings would decide")
            text += f"{' and' if is_balanced else ';'} of whole recordings"
        return text

    def binds_recordings(self, limit: str) -> bool:
        """Whether a limit, by its name, applies to whole recordings."""
        return self.limits_on == "recordings" and limit in ACCURACY_LIMITS

    @property
    def timed_on(self) -> Machine:
        """The machine that measured the latencies."""
        return self.latency_machine or self.machine

    def document(self) -> dict[str, Any]:
        """The verdict as plain JSON values; `float32` is called `float` there."""
        body = dataclasses.asdict(self)
        status = body.pop("status")
        sha256 = self.shipped_file[1] if self.shipped_file else None
        named = {"float" if name == "float32" else name: value for name, value in body.items()}
        return {"verdict": status, "sha256": sha256, **named}

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(self.document(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """The inverse of `to_json`.

        Raises
        ------
        DataError
            If the text is not a verdict.
        """
        try:
            return cls.from_document(
                untrusted_files.parse_json(
                    text, "a verdict", fix="run `lepton verify` again", top=dict, finite=False
                )
            )
        except (LeptonError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"not a verdict of lepton: {first_line(error)}", fix="run `lepton verify` again"
            ) from error

    @classmethod
    def from_document(cls, body: dict[str, Any]) -> Verdict:
        """The inverse of `document`.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            If a field is missing or of another type, or `sha256` is not that of the shipped file.
        """
        parity, drops = body["parity"], body["drops"]
        found = cls(
            status=body["verdict"],
            primary=body["primary"],
            prefer=body["prefer"],
            limits=tuple(JudgedLimit(**with_tuples(item)) for item in body["limits"]),
            problems=tuple(body["problems"]),
            parity=None if parity is None else Parity(**parity),
            int8=_figures(body["int8"]),
            float32=_figures(body["float"]),
            reference=_figures(body["reference"]),
            drops={name: PairedDrop(**item) for name, item in drops.items()},
            test_fingerprint=body["test_fingerprint"],
            test_set_uses=body["test_set_uses"],
            grouped=body["grouped"],
            machine=Machine(**with_tuples(body["machine"])),
            balanced=body.get("balanced", False),
            other=body.get("other"),
            validation=None
            if body.get("validation") is None
            else ValidationGap(**with_tuples(body["validation"])),
            notes=tuple(body.get("notes", ())),
            limits_on=body.get("limits_on", "samples"),
            recording_drops={
                name: PairedDrop(**item) for name, item in body.get("recording_drops", {}).items()
            },
            front_end=None
            if body.get("front_end") is None
            else FrontEndCost(**with_tuples(body["front_end"])),
            formats=tuple(map(_format, body.get("formats", ()))),
            ship=body.get("ship", ONNX),
            latency_host=body.get("latency_host", ""),
            latency_machine=None
            if body.get("latency_machine") is None
            else Machine(**with_tuples(body["latency_machine"])),
            board=_board(body.get("board")),
            rejection=None
            if body.get("rejection") is None
            else RejectionFigures(**with_tuples(body["rejection"])),
            calibration=None
            if body.get("calibration") is None
            else CalibrationFigures(**body["calibration"]),
        )
        check_types(found)
        shipped = found.shipped_file and found.shipped_file[1]
        if body["sha256"] != shipped:
            raise ValueError(f"sha256 is {body['sha256']}, that of the file that ships {shipped}")
        return found


def overall_status(
    limits: tuple[JudgedLimit, ...],
    problems: tuple[str, ...],
    parity: Parity | None,
    *,
    is_run: bool = True,
) -> Status:
    """The worst status: `broken`, then `undecided`, then `holds`.

    What ships but was not run on this machine, so not `is_run`, cannot hold.
    """
    if problems or (parity is not None and not parity.holds):
        return "broken"
    found = {limit.status for limit in limits}
    found |= set() if is_run else {"undecided"}
    worst_first: tuple[Status, ...] = ("broken", "undecided", "holds")
    return next((status for status in worst_first if status in found), "holds")


def _figures(body: dict[str, Any] | None) -> FileMetrics | None:
    if body is None:
        return None
    target, whole = body.get("target_latency"), body.get("recordings")
    made = {
        "target_latency": TargetLatency(**with_tuples(target)) if target else None,
        "recordings": RecordingAccuracy(**with_tuples(whole)) if whole else None,
    }
    return FileMetrics(**with_tuples(body | made))


def _board(body: dict[str, Any] | None) -> BoardFit | None:
    return None if body is None else BoardFit(**body | {"board": board_from_fields(body["board"])})


def _format(body: dict[str, Any]) -> FormatFigures:
    drop = body["drop"]
    made = {
        "metrics": _figures(body["metrics"]),
        "drop": None if drop is None else PairedDrop(**drop),
    }
    return FormatFigures(**with_tuples(body | made))
