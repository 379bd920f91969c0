"""Verdict: what was measured on the written files, and whether the stated limits hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lepton_automl.core.machine import Machine
from lepton_automl.cost.latency_model import Basis
from lepton_automl.errors import DataError, VerdictError

Status = Literal["holds", "broken", "undecided"]
Precision = Literal["int8", "float"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class TargetLatency:
    """Latency of a file on the device it is for, where that device did not time it."""

    latency_ms: float
    latency_interval: Interval
    basis: Basis
    """`predicted` from a table that the device measured, or `estimated` from assumed speeds."""
    device: str


@dataclass(frozen=True)
class FileMetrics:
    """What was measured on one file."""

    file: str
    """Path inside the artifact folder."""
    sha256: str
    accuracy: float
    """Share of test samples classified correctly, 0 to 1; of each class, on average, in a verdict
    that is `balanced`."""
    accuracy_interval: Interval
    """95 %: Wilson, or bootstrap over groups where the data has groups, within classes where these
    count alike."""
    n_samples: int
    size_bytes: int
    weight_bytes: int
    """Convolution kernels and matrices: one byte a weight in int8, four in float."""
    parameter_bytes: int
    """Those plus biases and scales."""
    macs: int
    """Multiply-accumulates a sample."""
    peak_ram_bytes: int
    """Feature maps alive at once, at one byte (int8) or four (float) an element."""
    latency_ms: float
    """A sample at batch 1 on one thread, here: ratio to the fixed net times its quiet time."""
    latency_interval: Interval
    float_nodes: tuple[str, ...]
    """Nodes that compute in float once ONNX Runtime has optimised the graph."""
    elsewhere: TargetLatency | None = None
    """Where the file is for another device; a latency limit is then judged by this."""


@dataclass(frozen=True)
class PairedDrop:
    """Accuracy points (0 to 100) lost from one file to another on the same samples."""

    points: float
    low: float
    high: float
    """95 %, both sides."""
    upper: float
    """One-sided 95 % bound: what the drop is at most."""
    n: int


@dataclass(frozen=True)
class JudgedLimit:
    """One limit the user stated, and what became of it."""

    name: str
    limit: float
    measured: float
    interval: Interval | None
    """None where the figure is exact."""
    status: Status
    n_needed: int | None = None
    """About how many test samples would decide, where more samples can."""
    basis: Basis = "measured"
    """What the figure is told from."""
    of: int | None = None
    """The class it is about, by its place among the outputs; None: all."""

    def __str__(self) -> str:
        text = f"{self.name} {self.limit:g}: {self.basis} {self.measured:.6g}"
        if self.interval is not None:
            text += f" [{self.interval[0]:.6g}, {self.interval[1]:.6g}]"
        text += "" if self.of is None else f" in class {self.of}"
        text += f", {self.status}"
        return text + (f" (about {self.n_needed} samples would decide)" if self.n_needed else "")


@dataclass(frozen=True)
class Parity:
    """ONNX Runtime's int8 answers against exact integer arithmetic and the float file's."""

    n_samples: int
    max_steps: int
    """Largest difference of the last quantized tensor, in steps of its scale."""
    n_clear: int
    """Samples whose two most probable classes are over 1 % apart in the float file."""
    n_same_class: int
    """Of those, how many have the same class in ONNX Runtime and in integer arithmetic."""
    golden_difference: float
    """Largest difference of a probability from those stored with the golden samples."""
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """The outcome of verification; `holds` only if parity and every stated limit hold."""

    status: Status
    primary: Precision
    """The file that ships; the limits bind this one."""
    prefer: str
    limits: tuple[JudgedLimit, ...]
    problems: tuple[str, ...]
    """What is wrong with the files themselves, a sentence each."""
    parity: Parity | None
    int8: FileMetrics | None
    float32: FileMetrics | None
    """The float twin: the same net after pruning."""
    reference: FileMetrics | None
    """The float winner before pruning."""
    drops: Mapping[str, PairedDrop]
    """`int8` and `float` against the reference, `int8_against_float` against the float twin."""
    test_fingerprint: str
    openings: int
    """How many different files have been judged on this test part."""
    grouped: bool
    """Intervals are over groups of samples that belong together."""
    machine: Machine
    balanced: bool = False
    """Every class counts alike: accuracies are means of the classes' recalls."""
    other: Status | None = None
    """What the limits say of the file that does not ship, on the same samples; None without any."""

    @property
    def shipped(self) -> FileMetrics | None:
        """The figures of the file that ships; None if the files are damaged."""
        return self.int8 if self.primary == "int8" else self.float32

    @property
    def exit_code(self) -> int:
        """0 if all holds, else 6."""
        return 0 if self.status == "holds" else VerdictError.exit_code

    @property
    def reasons(self) -> list[str]:
        """Why it does not hold, a line each."""
        lines = list(self.problems)
        if self.parity is not None and not self.parity.holds:
            lines.append(
                f"parity: {self.parity.n_same_class} of {self.parity.n_clear} clear samples agree "
                f"with integer arithmetic, largest difference {self.parity.max_steps} steps"
            )
        return lines + [self._told(limit) for limit in self.limits if limit.status != "holds"]

    def _told(self, limit: JudgedLimit) -> str:
        is_of_it = self.balanced and limit.name in {"min_accuracy", "max_drop"}
        return f"{limit}{'; of balanced accuracy' * is_of_it}"

    def document(self) -> dict[str, Any]:
        """The verdict as plain JSON values; `float32` is called `float` there."""
        body = dataclasses.asdict(self)
        status = body.pop("status")
        sha256 = self.shipped.sha256 if self.shipped else None
        named = {"float" if name == "float32" else name: value for name, value in body.items()}
        return {"verdict": status, "sha256": sha256, **named}

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(self.document(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read what `to_json` wrote.

        Raises
        ------
        DataError
            If the text is not a verdict.
        """
        try:
            return cls.from_document(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"not a verdict of lepton: {error}", fix="run `lepton verify` again"
            ) from error

    @classmethod
    def from_document(cls, body: dict[str, Any]) -> Verdict:
        """Read what `document` gave."""
        parity, drops = body["parity"], body["drops"]
        return cls(
            status=body["verdict"],
            primary=body["primary"],
            prefer=body["prefer"],
            limits=tuple(JudgedLimit(**_tuples(item)) for item in body["limits"]),
            problems=tuple(body["problems"]),
            parity=None if parity is None else Parity(**parity),
            int8=_figures(body["int8"]),
            float32=_figures(body["float"]),
            reference=_figures(body["reference"]),
            drops={name: PairedDrop(**item) for name, item in drops.items()},
            test_fingerprint=body["test_fingerprint"],
            openings=body["openings"],
            grouped=body["grouped"],
            machine=Machine(**_tuples(body["machine"])),
            balanced=body.get("balanced", False),
            other=body.get("other"),
        )


def overall(
    limits: tuple[JudgedLimit, ...], problems: tuple[str, ...], parity: Parity | None
) -> Status:
    """`broken` outweighs `undecided`, which outweighs `holds`."""
    if problems or (parity is not None and not parity.holds):
        return "broken"
    found = {limit.status for limit in limits}
    for status in ("broken", "undecided"):
        if status in found:
            return "broken" if status == "broken" else "undecided"
    return "holds"


def _figures(body: dict[str, Any] | None) -> FileMetrics | None:
    if body is None:
        return None
    told = body.get("elsewhere")
    return FileMetrics(
        **_tuples(body | {"elsewhere": TargetLatency(**_tuples(told)) if told else None})
    )


def _tuples(body: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
