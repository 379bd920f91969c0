"""What is measured on each written file: soundness, cost, latency, operators left in float."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from lepton_automl import bundle, fusion, onnxfile
from lepton_automl.about import read_about
from lepton_automl.arch import Arch
from lepton_automl.cost import Cost, Stopwatch, file_cost
from lepton_automl.judging import Evidence
from lepton_automl.latency_model import LatencyModel
from lepton_automl.manifest import INT8
from lepton_automl.onnx_cost import onnx_cost
from lepton_automl.verdict import Elsewhere, Figures

ROUNDS = 15
SECONDS = 0.3
"""Time given to each file's latency, over all rounds."""
UNLOADABLE = (
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NotImplemented,
    runtime.RuntimeException,
)
"""What ONNX Runtime raises on files it will not run."""


def file_problems(name: str, file: bytes) -> list[str]:
    """A sentence for everything that makes a file no standard ONNX file that runs here."""
    try:
        onnx.checker.check_model(file, full_check=True)
        opened = onnxfile.open_session(file)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [f"{name} is not sound ONNX: {_first_line(error)}"]
    except UNLOADABLE as error:
        return [f"{name} does not run in ONNX Runtime: {_first_line(error)}"]
    model = onnx.ModelProto.FromString(file)
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    ends = [[item.name for item in side] for side in (opened.get_inputs(), opened.get_outputs())]
    rules = {
        f"has operators of {', '.join(sorted(foreign))}": foreign,
        "keeps weights in other files": any(t.external_data for t in model.graph.initializer),
        f"takes and gives {ends}": ends != [[onnxfile.INPUT_NAME], [onnxfile.OUTPUT_NAME]],
    }
    return [f"{name} {sentence}" for sentence, is_broken in rules.items() if is_broken]


def figures(
    folder: Path,
    files: Mapping[str, bytes],
    digests: Mapping[str, str],
    evidence: Mapping[str, Evidence],
    quiet_reference_ms: float | None,
    model: LatencyModel | None = None,
) -> dict[str, Figures]:
    """Measure every file; latencies are taken in turns with one fixed reference net.

    Parameters
    ----------
    folder : Path
        The artifact folder.
    files, digests, evidence : mapping by file name
        Content, sha256, and which test samples are right.
    quiet_reference_ms : float, optional
        Recorded quiet time of the fixed reference net, milliseconds; measured if None.
    model : LatencyModel, optional
        Tells the latency of the int8 file on the device it is for, besides the one here.
    """
    watch = Stopwatch()
    quiet = quiet_reference_ms or watch.quiet_reference_ms()
    latencies = watch.measure(files, rounds=ROUNDS, seconds=SECONDS)
    found = {}
    for name, file in files.items():
        static = _static(folder, name, file)
        timed = static.timed(latencies[name], quiet)
        found[name] = _figures(name, digests[name], evidence[name], timed, file)
        if model is not None and name == INT8:
            arch = bundle.read_arch(folder, name)
            found[name] = dataclasses.replace(found[name], elsewhere=_told(arch, model))
    return found


def _static(folder: Path, name: str, file: bytes) -> Cost:
    value_bytes = 1 if name == INT8 else 4
    if read_about(folder).origin == "foreign":
        return onnx_cost(file, value_bytes)
    return file_cost(bundle.read_arch(folder, name), file, value_bytes)


def _told(arch: Arch, model: LatencyModel) -> Elsewhere:
    """Latency of an int8 file of `arch` on the device whose prices `model` has."""
    found = model.latency(arch.graph)
    interval = (found.low, found.high)
    return Elsewhere(found.milliseconds, interval, model.basis, model.device)


def _figures(name: str, sha256: str, evidence: Evidence, cost: Cost, file: bytes) -> Figures:
    low, middle, high = cost.latency_low_ms, cost.latency_ms, cost.latency_high_ms
    if low is None or middle is None or high is None:
        raise AssertionError("a timed cost has a latency")
    return Figures(
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
        float_nodes=tuple(fusion.float_nodes(file)),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
