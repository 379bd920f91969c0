"""Classify samples with the files of a further format, in place of the ONNX file of its artifact.

The int8 ONNX file says what is read: class names, scale, threshold for "none of these". Files that
are compiled are opened only if they are what lepton writes from it; a child process checks that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact import manifest
from lepton_automl.artifact.format_files import code_refusal
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.sealed_model import Seal, ShippedModel
from lepton_automl.core.limited_process import Message, serve
from lepton_automl.errors import DataError
from lepton_automl.models import formats
from lepton_automl.models.format_server import Server
from lepton_automl.models.format_session import FormatSession
from lepton_automl.models.untrusted.session import UntrustedSession

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.artifact.format_predictor import main; main()"
)


def with_int8(shipped: ShippedModel, name: str) -> ShippedModel:
    """The int8 ONNX file beside the files of a format, all of which are as they were sealed.

    Raises
    ------
    ConfigError
        If there is no such format.
    DataError
        If the artifact does not have it.
    ArtifactError
        If a file of it has changed since the artifact was sealed.
    """
    formats.load(name)
    seal = shipped.seal
    if seal is None:
        raise DataError(
            f"{shipped.path} lies outside of an artifact, which has the files of the format {name}",
            fix="give the artifact or its run",
        )
    seal.manifest.content(seal.folder, manifest.ABOUT)
    paths = read_provenance(seal.folder).formats.get(name, ())
    if not paths:
        raise DataError(
            f"{seal.folder} has no files of the format {name}",
            fix=f"write them: lepton export RUN --format {name}",
        )
    for path in paths:
        seal.manifest.content(seal.folder, path)
    return ShippedModel(
        seal.folder / manifest.INT8, Seal(seal.folder, seal.manifest, manifest.INT8)
    )


class FormatPredictor(UntrustedSession):
    """An int8 ONNX file that is open in a child process, and the format that predicts in its place.

    Parameters
    ----------
    name : str
        Of the format.
    folder : Path
        The artifact.
    content : bytes
        Of its int8 ONNX file.
    words : tuple of str
        Keys of its metadata that are returned.

    Raises
    ------
    MachineError
        If this machine lacks what runs the files.
    DataError
        If a file cannot be used, or is compiled and not what lepton writes from the ONNX file.
    """

    def __init__(self, name: str, folder: Path, content: bytes, words: tuple[str, ...]) -> None:
        super().__init__(folder / manifest.INT8, content, folder, words)
        try:
            self._format = FormatSession(name, folder, self.classes, program=PROGRAM)
        except BaseException:
            super().close()
            raise
        self.takes_any_size = formats.load(name).takes_any_size
        self._given: NDArray[Any] = np.zeros((0, *self.shape), self.dtype)

    def close(self) -> None:
        """End the process of the format, and leave that of the ONNX file to the next file."""
        super().close()
        if hasattr(self, "_format"):
            self._format.close()

    def send(self, pixels: NDArray[Any]) -> None:
        """Keep one batch of samples for `receive`."""
        self._given = pixels

    def receive(self) -> NDArray[np.float32]:
        """Probabilities (n, classes) of the batch that was sent."""
        return self._format.predict(np.ascontiguousarray(self._given, self.dtype))


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    server = Server()

    def answer(request: Message) -> Message:
        """As `format_server`, but open code of unknown origin only where it is lepton's own."""
        fields = request.fields
        if "format" in fields:
            refused = code_refusal(Path(fields["folder"]), fields["format"])
            if refused:
                fix = f"write the files again: lepton export RUN --format {fields['format']}"
                raise DataError(refused, fix=fix)
        return server.answer(request)

    serve(answer)
