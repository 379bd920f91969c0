"""Measure the files of the further formats of an artifact.

They hold the net of `model.int8.onnx` and are compared with its predictions. Files that are
compiled are opened only where this process wrote them, or where they are what it would write of
the ONNX file: code of unknown origin is never run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact import judging, manifest, measurements, writer
from lepton_automl.artifact.manifest import GOLDEN, GOLDEN_PREDICTIONS, INT8, golden_predictions
from lepton_automl.artifact.measurements import EvaluatedPart, recording_accuracy
from lepton_automl.artifact.own_sizes import OwnSizes
from lepton_automl.artifact.provenance import Provenance, read_provenance
from lepton_automl.artifact.verdict import FileMetrics, FormatFigures
from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.core.version import __version__
from lepton_automl.cost.flash import flash_bytes
from lepton_automl.cost.latency import relative_latency
from lepton_automl.errors import ArchError, ConfigError, DataError
from lepton_automl.metrics.paired import Evidence
from lepton_automl.models import formats
from lepton_automl.models.arch import Arch
from lepton_automl.models.format_session import FormatSession
from lepton_automl.models.formats import FileFormat, Golden, Sizes, Words
from lepton_automl.models.onnx_read import WrittenNet, read_int8

_GOLDEN_TOLERANCE = 1e-5
"""Largest difference of a golden probability from the stored one, beside what a format promises."""


@dataclass(frozen=True)
class MeasuredFormats:
    """Results of `measure_formats`, by name of the format where they are mappings."""

    figures: tuple[FormatFigures, ...]
    problems: tuple[str, ...]
    evidence: Mapping[str, Evidence]
    """Of the test samples; only of formats that were run."""
    whole: Mapping[str, Evidence]
    """Of whole recordings; empty where samples are not windows of recordings."""


@dataclass(frozen=True)
class _Outputs:
    """What the files of a format give on this machine."""

    sizes: Sizes
    labels: tuple[str, ...] | None
    predictions: NDArray[np.float32]
    """Probabilities (n, classes) of the test samples."""
    golden: NDArray[np.float32]
    times: tuple[list[float], list[float]]
    own_size_predictions: NDArray[np.float32] | None
    """(n, classes), of `EvaluatedPart.own_sizes`; None where the format takes one size only."""


def measure_formats(
    folder: Path,
    about: Provenance,
    test: EvaluatedPart,
    int8: FileMetrics,
    int8_predictions: NDArray[np.float32],
    reference: Evidence,
    *,
    digests: Mapping[str, str],
    is_own: bool,
) -> MeasuredFormats:
    """Classify the test part with the files of every further format of an artifact.

    Parameters
    ----------
    folder : Path
        The artifact.
    about : Provenance
        Names its formats.
    test : EvaluatedPart
        The test samples and what they are.
    int8, int8_predictions
        Figures of the int8 ONNX file, and its probabilities (n, classes) on the test samples.
    reference : Evidence
        Of the float net before pruning, which drops are measured from.
    digests : mapping of str to str
        Path -> sha256.
    is_own : bool
        Whether this process has just written the files.
    """
    found, problems = [], list[str]()
    evidence, whole = dict[str, Evidence](), dict[str, Evidence]()
    for name in about.formats:
        figures = _unmeasured(folder, about, name, digests)
        try:
            kind = formats.load(name)
        except ConfigError:
            why = f"this lepton has no format {name!r}"
            found.append(dataclasses.replace(figures, not_run=why))
            continue
        net = _net(folder)
        figures = dataclasses.replace(figures, differences=kind.differences(net))
        why = kind.missing()
        if kind.runs_code and not is_own:
            other, is_version = _other_code(folder, about, kind, name)
            if other and is_version:
                problems.append(other)
            why = why or other
        if why:
            found.append(dataclasses.replace(figures, not_run=why))
            continue
        try:
            outputs = _run_format(folder, name, len(about.class_names), test)
        except DataError as error:
            problems.append(f"{name}: {error.what}")
            found.append(dataclasses.replace(figures, not_run="it cannot be used"))
            continue
        problems += [
            f"{name}: {text}"
            for text in kind.beyond_promise(outputs.predictions, int8_predictions, net)
        ]
        problems += _label_problems(name, about.class_names, outputs.labels)
        problems += _golden_problems(folder, name, kind, outputs.golden)
        evidence[name] = test.evidence(outputs.predictions)
        if (joined := test.whole(outputs.predictions)) is not None:
            whole[name] = joined
        measured = _with_measurements(
            folder,
            kind,
            figures,
            outputs,
            int8,
            int8_predictions,
            evidence[name],
            reference,
            joined,
        )
        found.append(_with_own_sizes(measured, test.own_sizes, outputs, int8_predictions))
    return MeasuredFormats(tuple(found), tuple(problems), evidence, whole)


def _run_format(folder: Path, name: str, classes: int, test: EvaluatedPart) -> _Outputs:
    golden = writer.read_array(folder, GOLDEN)
    own_sizes = test.own_sizes if formats.load(name).takes_any_size else None
    with FormatSession(name, folder, classes) as session:
        return _Outputs(
            session.sizes,
            session.labels,
            session.predict(test.pixels),
            session.predict(golden),
            session.times(golden[:1], rounds=measurements.ROUNDS, seconds=measurements.SECONDS),
            None
            if own_sizes is None
            else np.concatenate([session.predict(each[None]) for each in own_sizes.pictures]),
        )


def _net(folder: Path) -> WrittenNet:
    content = untrusted_files.read_bytes(folder / INT8, MODEL, fix=manifest.FRESH)
    return read_int8(content, writer.read_arch(folder, INT8))


def _unmeasured(
    folder: Path, about: Provenance, name: str, digests: Mapping[str, str]
) -> FormatFigures:
    main = main_file(about, name)
    size = sum((folder / path).stat().st_size for path in about.formats[name])
    return FormatFigures(name, main, digests[main], size)


def main_file(about: Provenance, name: str) -> str:
    """Path of the file of a format that a user names: its first one."""
    return about.formats[name][0]


def _flash(folder: Path, kind: FileFormat, sizes: Sizes) -> dict[str, Any]:
    """Flash of C code where no cross compiler measured it: predicted. Fields of `FileMetrics`."""
    if sizes.flash_bytes is not None or not kind.runs_code:
        return {"flash_bytes": sizes.flash_bytes}
    return predicted_flash(writer.read_arch(folder, INT8))


def predicted_flash(arch: Arch) -> dict[str, Any]:
    """Fields of `FileMetrics` for the predicted flash of a net's C files."""
    return {"flash_bytes": flash_bytes(arch.graph, arch.front_end), "flash_basis": "predicted"}


def _with_measurements(
    folder: Path,
    kind: FileFormat,
    figures: FormatFigures,
    outputs: _Outputs,
    int8: FileMetrics,
    int8_predictions: NDArray[np.float32],
    evidence: Evidence,
    reference: Evidence,
    whole: Evidence | None,
) -> FormatFigures:
    latency, sizes = relative_latency(*outputs.times), outputs.sizes
    ends = latency.ratio_low, latency.ratio_high
    metrics = dataclasses.replace(
        int8,
        file=figures.file,
        sha256=figures.sha256,
        accuracy=evidence.accuracy,
        accuracy_interval=evidence.interval,
        size_bytes=sizes.file_bytes if sizes.flash_bytes is None else sizes.flash_bytes,
        peak_ram_bytes=int8.peak_ram_bytes if sizes.arena_bytes is None else sizes.arena_bytes,
        latency_ms=int8.latency_ms * latency.ratio,
        latency_interval=(int8.latency_ms * ends[0], int8.latency_ms * ends[1]),
        float_nodes=(),
        recordings=None if whole is None else recording_accuracy(whole),
        **_flash(folder, kind, sizes),
    )
    return dataclasses.replace(
        figures,
        metrics=metrics,
        n_same_class=int((outputs.predictions.argmax(1) == int8_predictions.argmax(1)).sum()),
        max_difference=float(np.abs(outputs.predictions - int8_predictions).max(initial=0.0)),
        latency_ratio=latency.ratio,
        latency_ratio_interval=ends,
        drop=judging.paired(reference, evidence),
        arena_bytes=sizes.arena_bytes,
    )


def _with_own_sizes(
    figures: FormatFigures,
    own_sizes: OwnSizes | None,
    outputs: _Outputs,
    int8_predictions: NDArray[np.float32],
) -> FormatFigures:
    """With the predictions for pictures in their own sizes, if the format takes these."""
    if own_sizes is None or outputs.own_size_predictions is None:
        return figures
    predictions, expected = outputs.own_size_predictions, int8_predictions[own_sizes.places]
    return dataclasses.replace(
        figures,
        n_own_size=len(predictions),
        n_own_size_same_class=int((predictions.argmax(1) == expected.argmax(1)).sum()),
        own_size_difference=float(np.abs(predictions - expected).max(initial=0.0)),
    )


def _label_problems(
    name: str, class_names: Sequence[str], labels: tuple[str, ...] | None
) -> list[str]:
    """Labels in the files of a format that are not the class names, in their order."""
    wanted = tuple(" ".join(each.splitlines()) for each in class_names)
    if labels is None or labels == wanted:
        return []
    return [f"{name}: its labels {list(labels)[:5]} are not the class names {list(wanted)[:5]}"]


def _golden_problems(
    folder: Path, name: str, kind: FileFormat, predictions: NDArray[np.float32]
) -> list[str]:
    """Golden predictions that are not reproduced; none where none are stored."""
    path = golden_predictions(name)
    if not (folder / path).is_file():
        return []
    apart = float(np.abs(predictions - writer.read_array(folder, path)).max(initial=0.0))
    most = kind.max_difference + _GOLDEN_TOLERANCE
    if apart <= most:
        return []
    return [f"{name}: golden probabilities differ by {apart:.3g} from {path} (limit {most:.3g})"]


def code_refusal(folder: Path, name: str) -> str:
    """Why the files of a format of an artifact of unknown origin are not opened; empty if they are.

    Raises
    ------
    DataError
        If a file of the artifact cannot be read.
    """
    kind, about = formats.load(name), read_provenance(folder)
    return _other_code(folder, about, kind, name)[0] if kind.runs_code else ""


def _other_code(folder: Path, about: Provenance, kind: FileFormat, name: str) -> tuple[str, bool]:
    """Why files are not what is written now from the ONNX file, and whether that is a fault.

    Another version of lepton may have written other code.
    """
    net = _net(folder)
    golden = Golden(
        writer.read_array(folder, GOLDEN), writer.read_array(folder, GOLDEN_PREDICTIONS[INT8])
    )
    try:
        wanted = kind.files(net, Words(net.class_names, net.metadata), golden)
    except ArchError as error:
        return f"{name}: {error.what}", True
    listed = set(about.formats[name])
    wrong = [path for path in wanted if path not in listed] + [
        path
        for path in sorted(listed)
        if untrusted_files.read_bytes(folder / path, MODEL, fix=manifest.FRESH) != wanted.get(path)
    ]
    if not wrong:
        return "", False
    if about.lepton != __version__:
        text = f"lepton {about.lepton} wrote {wrong[0]}, this is {__version__}"
        return f"{text}: code that it would not write itself is not run", False
    return f"{name}: {wrong[0]} is not what lepton writes of {INT8}; it is not run", True
