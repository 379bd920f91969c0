"""LiteRT: one `.tflite` file for Android, LiteRT and LiteRT for Microcontrollers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_archives, untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.formats import FileFormat, Golden, Session, Sizes, Words
from lepton_automl.models.graph import Gate
from lepton_automl.models.litert_export.flatbuffer import LABELS_FILE
from lepton_automl.models.litert_export.lowering import int8_litert
from lepton_automl.models.litert_export.memory import arena_bytes
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_logits
from lepton_automl.models.quantization import QuantizedNet

_FIX = "make the file again: lepton export RUN --format litert"

_MEAN_DIFFERENCE, _COARSE_MEAN_DIFFERENCE = 0.003, 0.012
"""Largest mean over samples of the largest difference of a probability: of most nets, and of those
with gates, whose sigmoids have other steps, or with int8 logits ("LiteRT files" in
docs/decisions.md)."""
_MAX_LABELS = 16 << 20
_MARGIN = 0.1
"""Share of the range of golden logits that is added to it on both sides."""


class Litert(FileFormat):
    """One file for LiteRT (formerly TensorFlow Lite): uint8 pixels in, probabilities out."""

    main = "model.int8.tflite"
    max_difference = 0.05
    same_class_share = 0.999

    def files(self, net: QuantizedNet, words: Words, golden: Golden) -> dict[str, bytes]:
        """The file; golden samples only say in which range int8 logits are."""
        # A net that is quantized for accelerators has int8 logits too.
        logit_range = _logit_range(net, golden.samples) if _has_layer_scales(net) else None
        return {self.main: int8_litert(net, words.class_names, logit_range)}

    def session(self, folder: Path) -> Session:
        """Open the file in LiteRT on one thread."""
        path = folder / self.main
        content = untrusted_files.read_bytes(path, MODEL, fix=_FIX)
        return _LitertSession(path, content)

    def sizes(self, folder: Path) -> Sizes:
        """The bytes of the file, and what LiteRT for Microcontrollers plans for feature maps."""
        content = untrusted_files.read_bytes(folder / self.main, MODEL, fix=_FIX)
        return Sizes(len(content), arena_bytes=arena_bytes(content))

    def beyond_promise(
        self,
        found: NDArray[np.float32],
        expected: NDArray[np.float32],
        net: QuantizedNet | None = None,
    ) -> tuple[str, ...]:
        """As of all formats; the mean difference too, which a wrong scale raises most."""
        problems = super().beyond_promise(found, expected, net)
        mean = float(np.abs(found - expected).max(1).mean()) if len(found) else 0.0
        is_coarse = (
            net is None
            or _has_layer_scales(net)
            or any(isinstance(op, Gate) for op in net.arch.graph.ops)
        )
        most = _COARSE_MEAN_DIFFERENCE if is_coarse else _MEAN_DIFFERENCE
        if mean > most:
            said = f"samples differ from the ONNX file by {mean:.3g} on average"
            problems += (f"{said}, the rule is at most {most:g}",)
        return problems

    def missing(self) -> str:
        """Whether the package ai-edge-litert is missing."""
        if importlib.util.find_spec("ai_edge_litert") is not None:
            return ""
        return "the package ai-edge-litert is not installed (pip install 'lepton-automl[litert]')"

    def differences(self, net: QuantizedNet) -> tuple[str, ...]:
        """Roundings, logits of 16 bits, and gates."""
        ops = net.arch.graph.ops
        bits = 8 if _has_layer_scales(net) else 16
        found = [
            "sums, products and means may be rounded to the next step",
            f"logits have {bits} bits, not those of float32",
        ]
        if net.arch.front_end is not None:
            found.append(
                "features of sound are summed in another order: single ones may be a step of 255 "
                "apart; LiteRT for Microcontrollers lacks their transform (RFFT2D)"
            )
        sigmoids = sum(isinstance(op, Gate) and op.kind == "sigmoid" for op in ops)
        if sigmoids:
            found.append(f"{sigmoids} sigmoids have steps of 1/256, not of 1/255")
        return tuple(found)


class _LitertSession(Session):
    def __init__(self, path: Path, content: bytes) -> None:
        litert = importlib.import_module("ai_edge_litert.interpreter")  # An extra.
        self._path = path
        try:
            self._interpreter = litert.Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
            (given,) = self._interpreter.get_input_details()
            (made,) = self._interpreter.get_output_details()
        except (RuntimeError, ValueError) as error:
            raise self._unusable(error) from error
        self._labels = _labels(path)
        self._given, self._made = given["index"], made["index"]

    def predict(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        shape = (0, self._interpreter.get_tensor(self._made).shape[-1])
        return np.concatenate([np.zeros(shape, np.float32), *map(self._one, samples)])

    def labels(self) -> tuple[str, ...] | None:
        return self._labels

    def prepared(self, sample: NDArray[Any]) -> Callable[[], object]:
        self._interpreter.set_tensor(self._given, sample)
        call: Callable[[], object] = self._interpreter.invoke
        return call

    def _one(self, sample: NDArray[Any]) -> NDArray[np.float32]:
        try:
            self._interpreter.set_tensor(self._given, sample[None])
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise self._unusable(error) from error
        found: NDArray[np.float32] = self._interpreter.get_tensor(self._made)
        return found

    def _unusable(self, error: Exception) -> DataError:
        return DataError(f"{self._path} does not run in LiteRT: {first_line(error)}", fix=_FIX)


def _labels(path: Path) -> tuple[str, ...]:
    """Labels in the archive behind a model."""
    found = {member.name: member for member in untrusted_archives.list_zip(path, fix=_FIX)}
    if LABELS_FILE not in found:
        raise DataError(f"{path} has no {LABELS_FILE}", fix=_FIX)
    content = found[LABELS_FILE].read(max_bytes=_MAX_LABELS, fix=_FIX)
    return tuple(content.decode(errors="replace").removesuffix("\n").split("\n"))


def _has_layer_scales(net: QuantizedNet) -> bool:
    """Whether all weights of a layer have one scale, in every layer."""
    scales = {} if net.qparams is None else net.qparams.weight_scales
    return bool(scales) and all((each == each[0]).all() for each in scales.values())


def _logit_range(net: QuantizedNet, samples: NDArray[Any]) -> tuple[float, float]:
    """Least and greatest logit that ONNX Runtime computes of some samples, with a margin."""
    logits = onnx_logits(int8_onnx(net, [""] * net.arch.classes, {}), samples)
    low, high = float(logits.min()), float(logits.max())
    margin = _MARGIN * (high - low)
    return low - margin, high + margin
