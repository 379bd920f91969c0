"""Compare ONNX Runtime's int8 results with exact integer arithmetic and golden samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_automl.artifact import writer
from lepton_automl.artifact.front_end_reference import reference_features
from lepton_automl.artifact.manifest import FLOAT, GOLDEN, GOLDEN_PREDICTIONS, INT8
from lepton_automl.artifact.verdict import Parity
from lepton_automl.core import untrusted_files
from lepton_automl.errors import ArchError, LeptonError
from lepton_automl.models import onnx_file
from lepton_automl.models.front_end import FRONT_END, LogMel
from lepton_automl.models.integer_reference import integer_reference, with_last_quantized_output

CLEAR_MARGIN = 0.01
"""Samples whose two top probabilities are closer than this in the float file are not compared."""
SAME_CLASS_SHARE = 0.999
MAX_STEPS = 1
GOLDEN_TOLERANCE = {"int8": 0.05, "float": 1e-3}
"""Largest difference of a golden probability between machines; one step of the last quantized
tensor changes a probability by less."""
_FIX = "give a file that lepton wrote"
BATCH = 16
PARITY_SAMPLES = 256
"""Pictures compared besides the golden ones."""


def parity(
    int8: bytes, floating: bytes, pixels: np.ndarray, golden_differences: Mapping[str, float]
) -> Parity:
    """Compare ONNX Runtime's results of the int8 file with exact integer arithmetic.

    Parameters
    ----------
    int8, floating : bytes
        The two files.
    pixels : array
        Samples: uint8 (N, H, W, C), float32 signals (N, length, C), or int16 audio (N, window).
    golden_differences : mapping of str to float
        Largest difference of a probability from the stored ones, for `int8` and `float`.

    Returns
    -------
    Parity
        Holds if the last quantized tensor differs by at most one step, the class is the same for
        99.9 % of the clear samples, golden probabilities are within their tolerance, and features
        of audio differ by at most one step from float64 arithmetic.

    Raises
    ------
    ArchError
        If the file has an operator that is not known, or does not say what its front end computes.
    """
    steps, feature_steps, integer, runtime = _both(int8, pixels)
    real = np.sort(
        onnx_file.predict_probabilities(onnx_file.open_session(floating), pixels), axis=1
    )
    clear = real[:, -1] - real[:, -2] > CLEAR_MARGIN
    same = int((integer == runtime)[clear].sum())
    is_golden = all(golden_differences[k] <= limit for k, limit in GOLDEN_TOLERANCE.items())
    is_same = same >= SAME_CLASS_SHARE * clear.sum()
    return Parity(
        n_samples=len(pixels),
        max_steps=steps,
        n_clear=int(clear.sum()),
        n_same_class=same,
        golden_difference=max(golden_differences.values(), default=0.0),
        holds=bool(max(steps, feature_steps or 0) <= MAX_STEPS and is_same and is_golden),
        feature_steps=feature_steps,
    )


def _both(file: bytes, pixels: np.ndarray) -> tuple[int, int | None, np.ndarray, np.ndarray]:
    """Largest differences in steps, classes by integer arithmetic, classes by ONNX Runtime.

    Of audio the integer arithmetic starts from the features that ONNX Runtime computed; the second
    difference is that of these features from float64 arithmetic, None of other samples.
    """
    exact = integer_reference(file)
    front_end = None if exact.features_name is None else _front_end(file)
    shipped, open_ended = (
        onnx_file.open_session(file),
        onnx_file.open_session(with_last_quantized_output(file)),
    )
    name = open_ended.get_inputs()[0].name
    steps, feature_steps, integer, runtime = 0, 0, [], []
    wanted = [exact.last_quantized_name, *filter(None, [exact.features_name])]
    for start in range(0, len(pixels), BATCH):
        batch = np.ascontiguousarray(pixels[start : start + BATCH])
        stored, *features = open_ended.run(wanted, {name: batch})
        outcome = exact.run(features[0] if features else batch)
        if front_end is not None:
            wrong = features[0].astype(int) - reference_features(front_end, batch)
            feature_steps = max(feature_steps, int(np.abs(wrong).max()))
        apart = np.ravel(outcome.last_quantized).astype(int) - np.ravel(stored).astype(int)
        steps = max(steps, int(np.abs(apart).max()))
        integer.append(outcome.probabilities.argmax(1))
        runtime.append(onnx_file.predict_probabilities(shipped, batch).argmax(1))
    found = np.concatenate(integer), np.concatenate(runtime)
    return steps, None if front_end is None else feature_steps, *found


def _front_end(file: bytes) -> LogMel:
    try:
        text = onnx_file.read_metadata(file)[FRONT_END]
        return LogMel.from_fields(untrusted_files.parse_json(text, FRONT_END, fix=_FIX, top=dict))
    except (LeptonError, ValueError, TypeError, KeyError) as error:
        raise ArchError(
            f"a file that reads audio does not say what its front end computes: {error}",
            fix=_FIX,
        ) from error


def golden_differences(folder: Path, files: Mapping[str, bytes]) -> dict[str, float]:
    """Largest difference of golden probabilities from the stored ones, for `int8` and `float`."""
    golden, apart = writer.read_array(folder, GOLDEN), {}
    for precision, name in (("int8", INT8), ("float", FLOAT)):
        predictions = onnx_file.predict_probabilities(onnx_file.open_session(files[name]), golden)
        stored = writer.read_array(folder, GOLDEN_PREDICTIONS[name])
        apart[precision] = float(np.abs(predictions - stored).max(initial=0.0))
    return apart


def golden_problems(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Golden results of an external model that are not reproduced, one sentence each."""
    return [
        f"golden probabilities of the {precision} file differ by {apart:.3g} from the stored ones "
        f"(limit {GOLDEN_TOLERANCE[precision]:g})"
        for precision, apart in golden_differences(folder, files).items()
        if apart > GOLDEN_TOLERANCE[precision]
    ]


def artifact_parity(folder: Path, files: Mapping[str, bytes], pixels: np.ndarray) -> Parity:
    """Parity of an artifact's int8 file on golden samples and some of `pixels`."""
    golden, apart = writer.read_array(folder, GOLDEN), golden_differences(folder, files)
    chosen = np.linspace(0, len(pixels) - 1, min(PARITY_SAMPLES, len(pixels))).astype(int)
    samples = np.concatenate([golden, pixels[chosen]])
    return parity(files[INT8], files[FLOAT], samples, apart)
