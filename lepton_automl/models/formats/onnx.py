"""ONNX: one file for ONNX Runtime, which every artifact has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.models.formats import FileFormat, Golden, Session, Sizes, Words
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import predict_probabilities
from lepton_automl.models.quantization import QuantizedNet
from lepton_automl.models.untrusted.onnx_graph import open_checked

_FIX = "give an ONNX file that lepton wrote"


class Onnx(FileFormat):
    """One file for ONNX Runtime: quantized operators, samples in, probabilities out."""

    main = "model.int8.onnx"
    max_difference = 0.0

    def files(self, net: QuantizedNet, words: Words, golden: Golden) -> dict[str, bytes]:
        """The int8 file; golden samples are not part of it."""
        del golden
        return {self.main: int8_onnx(net, words.class_names, words.metadata)}

    def session(self, folder: Path) -> Session:
        """Open the file in ONNX Runtime on one thread."""
        path = folder / self.main
        content = untrusted_files.read_bytes(path, MODEL, fix=_FIX)
        return _OnnxSession(open_checked(path, content, folder).session)

    def sizes(self, folder: Path) -> Sizes:
        """The bytes of the file; ONNX Runtime plans its memory itself."""
        return Sizes((folder / self.main).stat().st_size)


class _OnnxSession(Session):
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def predict(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = predict_probabilities(self._session, samples)
        return found
