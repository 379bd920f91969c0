"""File formats a model can be written in, one a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lepton_automl.model import Model

Precision = Literal["int8", "float32"]


@dataclass(frozen=True)
class Artifact:
    """One written file."""

    path: Path
    sha256: str
    format: str
    """Name of the exporter that wrote it, such as `onnx`."""
    precision: Precision
    preprocessing: dict[str, float]
    """`zero_point` and `scale` that the file applies to pixels on its own; a record only."""


class Exporter(ABC):
    """A file format.

    An exporter writes what it is given, and nothing measured and no times: the same model and
    the same words give the same bytes.
    """

    @abstractmethod
    def export(
        self, model: Model, folder: Path, class_names: Sequence[str], metadata: Mapping[str, str]
    ) -> Artifact:
        """Write `model` into `folder`: int8 if it is quantized, else float32.

        Parameters
        ----------
        model : Model
            With `qparams` it is written as int8.
        folder : Path
            Made if it does not exist.
        class_names : sequence of str
            One a class, in the order of the outputs.
        metadata : mapping of str to str
            Further words for the file, such as the fingerprint of the data.

        Raises
        ------
        ArchError
            If the format cannot express the model.
        MachineError
            If the folder cannot be written.
        """
