"""Verify an artifact: its files in ONNX Runtime on the test set, reading only.

What is done here is done in a child process (`verification_process`), which knows only the files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact import board_fits, consistency, judging, manifest, writer
from lepton_automl.artifact.format_files import measure_formats, predicted_flash
from lepton_automl.artifact.manifest import FLOAT, INT8, MODELS, REFERENCE
from lepton_automl.artifact.measurements import (
    EvaluatedPart,
    MeasuredElsewhere,
    figures,
    file_problems,
    measure_elsewhere,
)
from lepton_automl.artifact.own_sizes import OwnSizes
from lepton_automl.artifact.parity import artifact_parity, golden_problems
from lepton_automl.artifact.provenance import Provenance, read_provenance
from lepton_automl.artifact.rejection import measure_rejection
from lepton_automl.artifact.verdict import (
    CalibrationFigures,
    FileMetrics,
    FormatFigures,
    JudgedLimit,
    PairedDrop,
    Parity,
    Precision,
    RejectionFigures,
    ValidationGap,
    Verdict,
    overall_status,
)
from lepton_automl.config import Limits
from lepton_automl.core import untrusted_files
from lepton_automl.core.decisions import SEARCH_TIME
from lepton_automl.core.limited_process import is_out_of_memory
from lepton_automl.core.machine import Machine, this_machine
from lepton_automl.core.untrusted_files import MODEL, is_of_machine
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.data.dataset import LabelledFiles, map_labelled
from lepton_automl.errors import ArchError, ArtifactError, DataError, first_line
from lepton_automl.metrics.calibration import expected_calibration_error
from lepton_automl.metrics.intervals import is_near_chance
from lepton_automl.metrics.paired import Evidence, unpaired_difference
from lepton_automl.models import onnx_file
from lepton_automl.models.onnx_file import UNLOADABLE
from lepton_automl.models.untrusted.onnx_graph import MALFORMED, problem_of
from lepton_automl.models.untrusted.session import UntrustedSession

_GAP_LEVEL = 0.99
"""Two-sided confidence of the difference between validation and test."""
EXACT_EVERYWHERE = 64
"""Weights up to this never overflow 16 bits: 2 * 64 * 255 < 2 ** 15."""


@dataclass(frozen=True)
class Request:
    """An artifact and the test set to verify it on."""

    folder: Path
    """The artifact folder."""
    pixels: Path
    """Locked test part: .npy, uint8 (N, H, W, C) at the net's size, a float32 signal
    (N, length, C), or int16 audio (N, window)."""
    labels: Path
    """.npy, int64 (N,)."""
    fingerprint: str
    """Of the test part."""
    groups: tuple[int, ...] | None = None
    """Samples of one group belong together; intervals are then over groups."""
    recordings: tuple[int, ...] | None = None
    """Recording that each sample is a window of; None: samples are not windows of recordings."""
    limits: Limits | None = None
    """None: those recorded in the artifact."""
    prefer: str | None = None
    """None: as recorded in the artifact."""
    test_set_uses: int = 1
    """Different files verified on this test part up to this one (see `runs.test_set_uses`)."""
    digests: Mapping[str, str] | None = None
    """What `write_bundle` gave, while there is no manifest."""
    own_sizes: Path | None = None
    """Test pictures in their own sizes (`own_sizes.OwnSizes`), where a format takes these."""
    validation: tuple[Path, Path] | None = None
    """Pixels and labels of the validation part that the choices were made on; None: not known."""
    validation_groups: tuple[int, ...] | None = None
    """As `groups`, of the validation part."""
    quiet_reference_ms: float | None = None
    """Recorded quiet time of the fixed reference net; None: measured now."""
    elsewhere: MeasuredElsewhere | None = None
    """Latencies of the files by a host, with `quiet_reference_ms` of the same host; None: they are
    measured on this machine."""

    def to_json(self) -> str:
        """One line of JSON."""
        body = dataclasses.asdict(self)
        body["validation"] = self.validation and [str(path) for path in self.validation]
        body["own_sizes"] = self.own_sizes and str(self.own_sizes)
        return json.dumps(body | {k: str(body[k]) for k in ("folder", "pixels", "labels")})

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read what `to_json` wrote."""
        body = json.loads(text)
        body |= {name: Path(body[name]) for name in ("folder", "pixels", "labels")}
        body["own_sizes"] = body["own_sizes"] and Path(body["own_sizes"])
        for name in ("groups", "recordings", "validation_groups"):
            body[name] = None if body[name] is None else tuple(body[name])
        if body["elsewhere"] is not None:
            body["elsewhere"] = MeasuredElsewhere.from_document(body["elsewhere"])
        if body["validation"] is not None:
            pixels, labels = body["validation"]
            body["validation"] = Path(pixels), Path(labels)
        body["limits"] = None if body["limits"] is None else Limits(**body["limits"])
        return cls(**body)


def verify(request: Request) -> Verdict:
    """Verify an artifact; one with damaged, malformed or contradictory files is `broken`.

    Raises
    ------
    DataError
        If there is no finished artifact, or the test part does not fit it.
    """
    folder = request.folder
    primary: Precision | None = None
    if request.digests is None:
        problems = consistency.sealed_problems(folder)
    else:
        problems = consistency.written_problems(folder, dict(request.digests))
    if problems:
        return refused_verdict(problems, request)
    digests = request.digests
    if digests is None:
        sealed = manifest.read_manifest(folder)
        digests, primary = sealed.digests, sealed.primary
    files = {
        name: untrusted_files.read_bytes(folder / name, MODEL, fix=manifest.FRESH)
        for name in MODELS
    }
    problems = [line for name, file in files.items() for line in file_problems(name, file)]
    if problems:
        return refused_verdict(problems, request)
    try:
        return _judged(request, files, digests, primary)
    except (ArtifactError, ArchError, *UNLOADABLE) as error:
        if is_out_of_memory(error):
            raise
        return refused_verdict([first_line(error)], request)


def refusal(folder: Path) -> Verdict | None:
    """The verdict on a sealed artifact that cannot be believed, without data; None if it can be.

    Each of its files is run on the golden pictures.

    Raises
    ------
    DataError
        If there is no finished artifact.
    """
    problems = consistency.sealed_problems(folder)
    if problems:
        return refused_verdict(problems)
    golden, classes = (
        writer.read_array(folder, manifest.GOLDEN),
        len(read_provenance(folder).class_names),
    )
    for name in MODELS:
        file = untrusted_files.read_bytes(folder / name, MODEL, fix=manifest.FRESH)
        problems += file_problems(name, file) or _run_problems(name, file, golden, classes)
    return refused_verdict(problems) if problems else None


def checked_verdict(folder: Path) -> Verdict:
    """The stored verdict of a sealed artifact; a broken one, if its documents contradict it.

    Its models are compared by their digests only, so that no graph is opened.

    Raises
    ------
    DataError
        If there is no finished artifact.
    """
    problems = consistency.sealed_problems(folder, graphs=False)
    return refused_verdict(problems) if problems else writer.read_verdict(folder)


def _run_problems(name: str, file: bytes, pixels: np.ndarray, classes: int) -> list[str]:
    try:
        session = onnx_file.open_session(file)
        name_of_input = session.get_inputs()[0].name
        (found,) = session.run(
            [onnx_file.OUTPUT_NAME], {name_of_input: np.ascontiguousarray(pixels)}
        )
    except MALFORMED as error:
        if is_of_machine(error) or is_out_of_memory(error):
            raise
        return [f"{name} does not run in ONNX Runtime: {first_line(error)}"]
    problem = problem_of(found, len(pixels), classes)
    return [f"{name} gives no probabilities: {problem}"] if problem else []


def timed_elsewhere(request: Request, stopwatch: Stopwatch | None) -> Request:
    """The request with the latencies of the ONNX files on the host of a stopwatch.

    Raises
    ------
    MachineError
        If the host cannot be used.
    """
    if stopwatch is None:
        return request
    return dataclasses.replace(request, elsewhere=measure_elsewhere(request.folder, stopwatch))


def saturation_problems(target: str, machine: Machine) -> tuple[str, ...]:
    """Why int8 results may differ on this processor: it adds products in 16 bits and saturates."""
    if targets.load(target).weight_limit <= EXACT_EVERYWHERE or "avx512_vnni" in machine.flags:
        return ()
    return (
        f"the file was made for {target}, whose weights use all 8 bits; this processor adds their "
        "products in 16 bits and saturates: verify on such a processor, or make it with "
        "--target x86-any",
    )


def is_external(folder: Path) -> bool:
    """Whether the artifact is of a model that was made elsewhere."""
    return read_provenance(folder).origin == "foreign"


def reference_predictions(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Classes (N,) int64 that the float net before pruning predicts for pixels (N, H, W, C)."""
    path = folder / REFERENCE
    file = untrusted_files.read_bytes(path, MODEL, fix=manifest.FRESH)
    if is_external(folder):
        with UntrustedSession(path, file, folder) as session:
            found = session.predict(pixels)
    else:
        found = onnx_file.onnx_probabilities(file, pixels)
    classes: np.ndarray = found.argmax(1).astype(np.int64)
    return classes


def _judged(
    request: Request,
    files: Mapping[str, bytes],
    digests: Mapping[str, str],
    primary: Precision | None,
) -> Verdict:
    """Measure files that are sound, and judge the limits on the one that ships."""
    about = read_provenance(request.folder)
    limits, prefer = request.limits or about.limits, request.prefer or about.prefer
    test, evidence, of_recordings, probabilities = _evidence(request, about, files)
    quiet_ms = request.quiet_reference_ms
    found, front_end = figures(
        request.folder,
        files,
        digests,
        evidence,
        quiet_ms,
        about.latency,
        of_recordings,
        request.elsewhere,
    )
    primary = primary or judging.choose_primary(found[INT8], found[FLOAT], limits, prefer)
    formats = measure_formats(
        request.folder,
        about,
        test,
        found[INT8],
        probabilities[INT8],
        evidence[REFERENCE],
        digests=digests,
        is_own=request.digests is not None,
    )
    main_file, other_file = (INT8, FLOAT) if primary == "int8" else (FLOAT, INT8)
    binds_recordings = of_recordings is not None and about.judge != "windows"
    binding = of_recordings if of_recordings is not None and binds_recordings else evidence
    reference = binding[REFERENCE]
    shipped = next((one for one in formats.figures if one.name == about.ship), None)
    if shipped is None:
        main_limits = judging.judge(limits, found[main_file], binding[main_file], reference)
    else:
        own = formats.whole if binds_recordings else formats.evidence
        main_limits = _format_limits(request.folder, limits, shipped, own, found[INT8], binding)
    other_limits = judging.judge(limits, found[other_file], binding[other_file], reference)
    machine = this_machine()
    parity, problems = _soundness(request.folder, about, files, test.pixels, machine)
    problems += formats.problems
    return Verdict(
        status=overall_status(
            main_limits, problems, parity, is_run=shipped is None or not shipped.not_run
        ),
        primary=primary,
        prefer=prefer,
        limits=main_limits,
        problems=problems,
        parity=parity,
        int8=found[INT8],
        float32=found[FLOAT],
        reference=found[REFERENCE],
        drops=_drops(evidence),
        limits_on="recordings" if binds_recordings else "samples",
        recording_drops={} if of_recordings is None else _drops(of_recordings),
        test_fingerprint=request.fingerprint,
        test_set_uses=request.test_set_uses,
        grouped=request.groups is not None,
        balanced=about.balanced,
        machine=machine,
        latency_host="" if request.elsewhere is None else request.elsewhere.host,
        latency_machine=None if request.elsewhere is None else request.elsewhere.machine,
        # Parity is of int8 and does not concern a float file.
        other=overall_status(other_limits, problems, parity if other_file == INT8 else None)
        if other_limits and shipped is None
        else None,
        notes=notes_of(about, found[main_file].accuracy),
        validation=_validation_gap(request, about, files, evidence, main_file),
        front_end=front_end,
        calibration=calibration_figures(probabilities[main_file], test.labels),
        formats=formats.figures,
        ship=about.ship,
        rejection=_rejection(about, files[main_file], main_file, test),
        board=None
        if about.board is None
        else board_fits.fit(request.folder, about.board, formats.figures),
    )


def _format_limits(
    folder: Path,
    limits: Limits,
    shipped: FormatFigures,
    own: Mapping[str, Evidence],
    int8: FileMetrics,
    evidence: Mapping[str, Evidence],
) -> tuple[JudgedLimit, ...]:
    """Judge the limits on a further format that ships; undecided at best if it does not run here.

    `own` is the evidence of the formats, `int8` and `evidence` are of the ONNX files.
    """
    if shipped.metrics is not None:
        return judging.judge(limits, shipped.metrics, own[shipped.name], evidence[REFERENCE])
    # The figures of the int8 file are what the format may be expected to reach.
    expected = dataclasses.replace(int8, **predicted_flash(writer.read_arch(folder, INT8)))
    judged = judging.judge(limits, expected, evidence[INT8], evidence[REFERENCE])
    return judging.undecided_without_run(judged)


def _rejection(
    about: Provenance, file: bytes, name: str, test: EvaluatedPart
) -> RejectionFigures | None:
    """What the threshold for "none of these" rejects; None where the file has none."""
    if name not in about.reject_below:
        return None
    below = about.reject_below[name]
    return measure_rejection(file, about.reject_rate, below, test.pixels, test.labels, test.groups)


def _validation_gap(
    request: Request,
    about: Provenance,
    files: Mapping[str, bytes],
    evidence: Mapping[str, Evidence],
    shipped: str,
) -> ValidationGap | None:
    """Compare a file on the validation part with its evidence on the test part.

    That is the shipped one, or the reference where the shipped one has learnt the validation part.
    """
    if request.validation is None:
        return None
    pixels, labels = map_labelled(LabelledFiles(*request.validation))
    if pixels.shape[1:] != about.input or not len(labels):
        return None
    given = request.validation_groups
    name = REFERENCE if about.refit else shipped
    predictions = onnx_file.predict_probabilities(onnx_file.open_session(files[name]), pixels)
    found = Evidence(
        predictions.argmax(1) == labels,
        None if given is None else np.asarray(given),
        labels if about.balanced else None,
        labels,
    )
    difference, (low, high) = unpaired_difference(found, evidence[name], _GAP_LEVEL)
    return ValidationGap(
        accuracy=found.accuracy,
        accuracy_interval=found.interval,
        n_samples=len(labels),
        points=100 * difference,
        interval=(100 * low, 100 * high),
        is_beyond_chance=low > 0,
        is_of_reference=about.refit,
    )


def notes_of(about: Provenance, accuracy: float) -> tuple[str, ...]:
    """How little time the search had, and whether the accuracy is near that of guessing."""
    notes = [
        f"{each.choice}; {each.option} continues it"
        for each in about.decisions
        if each.name == SEARCH_TIME and each.certainty == "assumed"
    ]
    classes = len(about.class_names)
    if is_near_chance(accuracy, classes):
        notes.append(
            f"{accuracy:.1%} of the test samples are classified correctly, hardly more than by "
            f"guessing among {classes} classes ({1 / classes:.1%})"
        )
    return tuple(notes)


def _drops(evidence: Mapping[str, Evidence]) -> dict[str, PairedDrop]:
    return {
        "int8": judging.paired(evidence[REFERENCE], evidence[INT8]),
        "float": judging.paired(evidence[REFERENCE], evidence[FLOAT]),
        "int8_against_float": judging.paired(evidence[FLOAT], evidence[INT8]),
    }


def _soundness(
    folder: Path,
    about: Provenance,
    files: Mapping[str, bytes],
    pixels: np.ndarray,
    machine: Machine,
) -> tuple[Parity | None, tuple[str, ...]]:
    """Parity, None for external models, and the errors of the files."""
    if about.origin == "foreign":
        return None, tuple(golden_problems(folder, files))
    same = artifact_parity(folder, files, pixels)
    return same, () if same.holds else saturation_problems(about.target, machine)


def _evidence(
    request: Request, about: Provenance, files: Mapping[str, bytes]
) -> tuple[
    EvaluatedPart, dict[str, Evidence], dict[str, Evidence] | None, dict[str, NDArray[np.floating]]
]:
    """The test samples, for each file which of them and of their recordings are right.

    Last the probabilities of each file.
    """
    pixels, labels = map_labelled(LabelledFiles(request.pixels, request.labels))
    if pixels.shape[1:] != about.input or len(pixels) != len(labels) or not len(labels):
        raise DataError(
            f"a test part of {len(labels)} labels and samples {pixels.shape} does not fit a net "
            f"for samples {about.input}",
            fix="give the data that the artifact was made from",
        )
    groups = None if request.groups is None else np.asarray(request.groups)
    recordings = None if request.recordings is None else np.asarray(request.recordings)
    own_sizes = None if request.own_sizes is None else OwnSizes.read(request.own_sizes)
    test = EvaluatedPart(pixels, labels, about.balanced, groups, recordings, own_sizes)
    right, whole = dict[str, Evidence](), dict[str, Evidence]()
    by_name = dict[str, NDArray[np.floating]]()
    for name, file in files.items():
        predictions = onnx_file.predict_probabilities(onnx_file.open_session(file), pixels)
        problem = problem_of(predictions, len(pixels), len(about.class_names))
        if problem:
            raise manifest.unusable(request.folder / name, f"it gives no probabilities: {problem}")
        by_name[name] = predictions
        right[name] = test.evidence(predictions)
        if (joined := test.whole(predictions)) is not None:
            whole[name] = joined
    return test, right, whole or None, by_name


def calibration_figures(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64]
) -> CalibrationFigures:
    """How far the probabilities (N, classes) of a file are the shares of right predictions."""
    greatest, correct = probabilities.max(1), probabilities.argmax(1) == labels
    return CalibrationFigures(
        n_samples=len(labels),
        probability=float(greatest.mean()),
        accuracy=float(correct.mean()),
        error=expected_calibration_error(greatest, correct),
    )


def refused_verdict(problems: list[str], request: Request | None = None) -> Verdict:
    """The verdict on files that are not measured, because they are damaged or contradictory."""
    return Verdict(
        status="broken",
        primary="int8",
        prefer=(request and request.prefer) or "size",
        limits=(),
        problems=tuple(problems),
        parity=None,
        int8=None,
        float32=None,
        reference=None,
        drops={},
        test_fingerprint="" if request is None else request.fingerprint,
        test_set_uses=0 if request is None else request.test_set_uses,
        grouped=request is not None and request.groups is not None,
        machine=this_machine(),
    )
