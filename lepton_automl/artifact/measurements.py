"""Measure each file of an artifact: validity, cost, latency, operators left in float."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx

from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.manifest import INT8, MODELS
from lepton_automl.artifact.own_sizes import OwnSizes
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verdict import (
    FileMetrics,
    FrontEndCost,
    RecordingAccuracy,
    TargetLatency,
)
from lepton_automl.core import untrusted_files
from lepton_automl.core.field_types import with_tuples
from lepton_automl.core.limited_process import is_out_of_memory
from lepton_automl.core.machine import Machine
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.cost.cost import Cost, file_cost
from lepton_automl.cost.latency import Latency, Stopwatch, Undecided
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.cost.onnx_cost import onnx_cost
from lepton_automl.errors import DataError, first_line
from lepton_automl.metrics.paired import Evidence
from lepton_automl.metrics.recordings import recording_evidence
from lepton_automl.models import onnx_file
from lepton_automl.models.arch import Arch
from lepton_automl.models.front_end_onnx import ancestors, features_name, front_end_of
from lepton_automl.models.onnx_file import UNLOADABLE, open_optimized
from lepton_automl.models.untrusted.onnx_graph import MALFORMED, parse

_FRONT_END = "front end"
ROUNDS = 15
SECONDS = 0.3
"""Time per file over all rounds."""


@dataclass(frozen=True)
class EvaluatedPart:
    """The test samples, and what is needed to judge predictions for them."""

    pixels: np.ndarray
    """(n, *shape), as written files read them."""
    labels: np.ndarray
    """int64 (n,)."""
    is_balanced: bool
    groups: np.ndarray | None = None
    recordings: np.ndarray | None = None
    """Recording that each sample is a window of; None: they are not windows of recordings."""
    own_sizes: OwnSizes | None = None
    """Some of them in their own sizes, where a format takes these."""

    def evidence(self, predictions: np.ndarray) -> Evidence:
        """Which samples the probabilities (n, classes) classify correctly."""
        strata = self.labels if self.is_balanced else None
        return Evidence(predictions.argmax(1) == self.labels, self.groups, strata, self.labels)

    def whole(self, predictions: np.ndarray) -> Evidence | None:
        """Which recordings the joined predictions classify correctly; None where there are none."""
        if self.recordings is None:
            return None
        return recording_evidence(
            predictions, self.labels, self.recordings, self.groups, is_balanced=self.is_balanced
        )


def file_problems(name: str, file: bytes) -> list[str]:
    """Reasons why a file is not a standard ONNX file that runs here, one sentence each."""
    try:
        model = parse(name, file, Path(os.devnull))  # No weights are in other files.
        onnx.checker.check_model(model, full_check=True)
        opened = onnx_file.open_session(file)
    except DataError as error:
        return [error.what]
    except UNLOADABLE as error:
        if is_out_of_memory(error):
            raise
        return [f"{name} does not run in ONNX Runtime: {first_line(error)}"]
    except MALFORMED as error:
        return [f"{name} is not valid ONNX: {first_line(error)}"]
    ends = [[item.name for item in side] for side in (opened.get_inputs(), opened.get_outputs())]
    inputs = ([onnx_file.INPUT_NAME], [onnx_file.SIGNAL_NAME], [onnx_file.AUDIO_NAME])
    if ends[0] not in inputs or ends[1] != [onnx_file.OUTPUT_NAME]:
        return [f"{name} has inputs and outputs {ends}"]
    return []


def figures(
    folder: Path,
    files: Mapping[str, bytes],
    digests: Mapping[str, str],
    evidence: Mapping[str, Evidence],
    quiet_reference_ms: float | None,
    model: LatencyModel | None = None,
    whole: Mapping[str, Evidence] | None = None,
    elsewhere: MeasuredElsewhere | None = None,
) -> tuple[dict[str, FileMetrics], FrontEndCost | None]:
    """Measure every file, and the front end of files that read audio.

    Latencies are of rounds that interleave all files and the reference net.

    Parameters
    ----------
    folder : Path
        The artifact folder.
    files, digests, evidence : mapping by file name
        Content, sha256, and which test samples are right.
    quiet_reference_ms : float, optional
        Recorded quiet time of the fixed reference net, milliseconds; measured if None.
    model : LatencyModel, optional
        Predicts the latency of the int8 file on the target device.
    whole : mapping by file name, optional
        Which test recordings are right, where samples are windows of recordings.
    elsewhere : MeasuredElsewhere, optional
        Latencies of the same files by a host, which are used in place of measuring here.
    """
    watch = Stopwatch() if elsewhere is None else _Recorded(elsewhere)
    quiet = quiet_reference_ms or watch.quiet_reference_ms()
    timed_files = _timed(files)
    front_end = timed_files.get(_FRONT_END)
    latencies = watch.measure(timed_files, rounds=ROUNDS, seconds=SECONDS)
    found = {}
    for name, file in files.items():
        static = _static(folder, name, file)
        timed = static.with_measured_latency(latencies[name], quiet)
        found[name] = _figures(name, digests[name], evidence[name], timed, file)
        if whole is not None:
            found[name] = dataclasses.replace(
                found[name], recordings=recording_accuracy(whole[name])
            )
        if model is not None and name == INT8:
            arch = writer.read_arch(folder, name)
            found[name] = dataclasses.replace(
                found[name], target_latency=_target_latency(arch, model)
            )
    if front_end is None:
        return found, None
    own = latencies[_FRONT_END]
    interval = (own.ratio_low * quiet, own.ratio_high * quiet)
    return found, FrontEndCost(own.ratio * quiet, interval, len(front_end))


def _timed(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The files that take turns: with them the front end of those that read audio."""
    front_end = front_end_of(files[INT8])
    return files if front_end is None else {**files, _FRONT_END: front_end}


@dataclass(frozen=True)
class MeasuredElsewhere:
    """Latencies of written files, measured on a host of `--hosts`."""

    host: str
    """Its name."""
    machine: Machine
    latencies: Mapping[str, Latency]
    """sha256 of a file -> its latency in rounds in which all took turns."""

    @classmethod
    def from_document(cls, body: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        found = {digest: Latency(**one) for digest, one in body["latencies"].items()}
        return cls(body["host"], Machine(**with_tuples(body["machine"])), found)


def measure_elsewhere(folder: Path, stopwatch: Stopwatch) -> MeasuredElsewhere:
    """Measure the ONNX files of an artifact on the host of a stopwatch, as `figures` does here.

    Raises
    ------
    MachineError
        If the host cannot be used.
    """
    names = {name: folder / name for name in MODELS}
    files = {
        name: untrusted_files.read_bytes(path, MODEL, fix=manifest.FRESH)
        for name, path in names.items()
    }
    by_digest = {hashlib.sha256(file).hexdigest(): file for file in _timed(files).values()}
    found = stopwatch.measure(by_digest, rounds=ROUNDS, seconds=SECONDS)
    return MeasuredElsewhere(stopwatch.host, stopwatch.machine, found)


class _Recorded(Stopwatch):
    """Gives the latencies that a host has measured."""

    def __init__(self, elsewhere: MeasuredElsewhere) -> None:
        self._known = elsewhere.latencies

    def measure(
        self,
        files: Mapping[str, bytes],
        *,
        rounds: int = 9,
        seconds: float = 0.015,
        is_undecided: Undecided | None = None,
    ) -> dict[str, Latency]:
        """As `Stopwatch.measure`; raises a KeyError for files that were not measured."""
        del rounds, seconds, is_undecided
        return {n: self._known[hashlib.sha256(file).hexdigest()] for n, file in files.items()}

    def quiet_reference_ms(self, *, rounds: int = 40, seconds: float = 0.2) -> float:
        """Recorded with the latencies of the run, and given with them."""
        del rounds, seconds
        raise AssertionError("the request has it")


def recording_accuracy(whole: Evidence) -> RecordingAccuracy:
    """Accuracy of the joined predictions of recordings, as figures of a file hold it."""
    return RecordingAccuracy(whole.accuracy, whole.interval, len(whole.correct))


def _static(folder: Path, name: str, file: bytes) -> Cost:
    value_bytes = 1 if name == INT8 else 4
    if read_provenance(folder).origin == "foreign":
        return onnx_cost(file, value_bytes)
    return file_cost(writer.read_arch(folder, name), file, value_bytes)


def _target_latency(arch: Arch, model: LatencyModel) -> TargetLatency:
    """Latency of an int8 file of `arch` on the device of `model`."""
    found = model.latency(arch.graph)
    interval = (found.low, found.high)
    return TargetLatency(found.milliseconds, interval, model.basis, model.device)


def _figures(name: str, sha256: str, evidence: Evidence, cost: Cost, file: bytes) -> FileMetrics:
    low, middle, high = cost.latency_low_ms, cost.latency_ms, cost.latency_high_ms
    if low is None or middle is None or high is None:
        raise AssertionError("a timed cost has a latency")
    return FileMetrics(
        file=name,
        sha256=sha256,
        accuracy=evidence.accuracy,
        accuracy_interval=evidence.interval,
        n_samples=len(evidence.correct),
        size_bytes=cost.size_bytes,
        weight_bytes=cost.weight_bytes,
        parameter_bytes=cost.parameter_bytes,
        macs=cost.macs,
        peak_ram_bytes=cost.peak_ram_bytes,
        latency_ms=middle,
        latency_interval=(low, high),
        float_nodes=tuple(float_nodes(file)),
    )


_ELSEWHERE = frozenset(
    {"Softmax", "Flatten", "Transpose", "Unsqueeze", "ReorderInput", "ReorderOutput"}
    | {"QuantizeLinear", "DequantizeLinear", "Sub", "Cast", "Div", "Reshape"}
)
"""Operators that are never integer: softmax, data movement, conversions, offsets of inputs."""


def float_nodes(file: bytes) -> list[str]:
    """Operators that compute in float, as `name (type)`; empty if all arithmetic is integer.

    In an int8 file such a node is a missing kernel or a pattern that was not fused; names are
    those of the operations of the `Arch`. Of a float file these are all operators. The front end of
    a file that reads audio, which always computes in float, is left out.
    """
    _, model = open_optimized(file)
    nodes, end = list(model.graph.node), features_name(model)
    front = set() if end is None else {node.output[0] for node in ancestors(nodes, end)}
    return [
        f"{node.name or node.output[0]} ({node.op_type})"
        for node in nodes
        if node.op_type not in _ELSEWHERE
        and not _is_integer(node.op_type)
        and node.output[0] not in front
    ]


def _is_integer(kind: str) -> bool:
    # Integer max-pooling keeps its name where it is not moved to channels last.
    return kind.startswith(("QLinear", "QGemm")) or kind in {"NhwcMaxPool", "MaxPool"}
