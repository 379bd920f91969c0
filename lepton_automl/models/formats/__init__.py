"""File formats, one per file: how a quantized net is written and run, and what it costs.

Every format is written from the same `QuantizedNet`. The ONNX int8 file is what the others are
compared with. A format states how far its predictions may be from those of that file; those
of the written files are measured, never assumed. Names of modules that are not formats begin with
`_`, or lie outside of this folder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import plugins
from lepton_automl.core.limited_process import ProcessLimits
from lepton_automl.models.quantization import QuantizedNet

ONNX = "onnx"
"""The format that every artifact has, and that others are compared with."""


@dataclass(frozen=True)
class Golden:
    """A few validation samples, and the probabilities that the ONNX int8 file gives them."""

    samples: NDArray[Any]
    """(n, *`Arch.file_input`) of type `Preprocessing.input_type`: what written files read."""
    probabilities: NDArray[np.float32]
    """(n, classes)."""


@dataclass(frozen=True)
class Words:
    """Names and texts that files hold beside the net."""

    class_names: tuple[str, ...]
    """From outside: any text. What is compiled or shown must escape them."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Further entries, of a format that has a place for them; no measurements and no times."""


@dataclass(frozen=True)
class Sizes:
    """What written files take; bytes. None: not known on this machine, never a guess."""

    file_bytes: int
    """Of the files together: what is copied."""
    flash_bytes: int | None = None
    """Of code and constants on a microcontroller, as its compiler's `size` gives text and data."""
    arena_bytes: int | None = None
    """Of the working memory that a caller must provide."""


class Session(ABC):
    """Written files that are open in this process; see `FileFormat.session`."""

    @abstractmethod
    def predict(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, classes) of samples as written files read them."""

    def labels(self) -> tuple[str, ...] | None:
        """Class names that the files hold, line breaks as spaces; None of a format without them."""
        return None

    def prepared(self, sample: NDArray[Any]) -> Callable[[], object]:
        """A function that classifies one sample (1, *shape), for measuring its latency.

        What is not part of an inference on the device, such as the conversion of arrays, is done
        before the function is returned.
        """
        return lambda: self.predict(sample)


class FileFormat(ABC):
    """Base class of all formats.

    A plug-in file defines one class without parameters; the first line of its docstring is shown
    to users. `files` must depend on its arguments only: the same net gives the same bytes.
    """

    main: ClassVar[str]
    """Path inside the artifact of the file that a user names: `model.int8.tflite`, `c/net.c`."""
    max_difference: ClassVar[float]
    """Largest difference of a probability from the ONNX int8 file's that the format promises."""
    within_share: ClassVar[float] = 1.0
    """Least share of samples that are within `max_difference`: below 1 where rare ties of rounding
    fall otherwise. One sample is always allowed then."""
    same_class_share: ClassVar[float] = 1.0
    """Least share of samples that get the class of the ONNX int8 file, among those whose two most
    probable classes are further apart than twice `max_difference`."""
    runs_code: ClassVar[bool] = False
    """Whether `session` compiles or executes the files. Those of an artifact of unknown origin are
    then opened only if they are, byte for byte, what `files` writes from its ONNX file."""
    takes_any_size: ClassVar[bool] = False
    """Whether the files resize pictures of any height and width themselves, and are measured on
    test pictures in their own sizes too."""
    session_limits: ClassVar[ProcessLimits] = ProcessLimits(1 << 30, 60.0, 600.0)
    """On `session`: memory and processor time of the process and of each of its children."""

    @abstractmethod
    def files(self, net: QuantizedNet, words: Words, golden: Golden) -> dict[str, bytes]:
        """Write a net: path inside the artifact -> content; `main` is one of them.

        Only these paths belong to the format, all in one folder of their own or named `model.*`,
        so that formats never share one.

        Raises
        ------
        ArchError
            If the format cannot hold the net, or the net is not quantized.
        """

    @abstractmethod
    def session(self, folder: Path) -> Session:
        """Open the files below `folder`, the artifact, without changing or adding any.

        It runs in a child process with limits (`models.format_session`), which ends where the
        files crash it; what it puts into `tempfile` is deleted with the process. It reads nothing
        but the files of the format.

        Raises
        ------
        DataError
            If the files cannot be used.
        """

    @abstractmethod
    def sizes(self, folder: Path) -> Sizes:
        """What the files below `folder` take; runs in the child process too."""

    def beyond_promise(
        self,
        found: NDArray[np.float32],
        expected: NDArray[np.float32],
        net: QuantizedNet | None = None,
    ) -> tuple[str, ...]:
        """How predictions break what the format promises, one sentence each.

        Parameters
        ----------
        found, expected : float32 array (n, classes)
            Probabilities by the files, and by the ONNX int8 file for the same samples.
        net : QuantizedNet, optional
            The net; some formats promise more for nets of certain operations.
        """
        del net
        if not len(found):
            return ()
        apart, order = np.abs(found - expected).max(1), np.sort(expected, axis=1)
        beyond, problems = int((apart > self.max_difference).sum()), []
        if beyond > math.ceil((1 - self.within_share) * len(found) - 1e-9):
            problems.append(
                f"{beyond} of {len(found)} samples differ from the ONNX file by more than "
                f"{self.max_difference:g}, at most by {apart.max():.3g}"
            )
        clear = order[:, -1] - order[:, -2] > 2 * self.max_difference
        same = int((found.argmax(1) == expected.argmax(1))[clear].sum())
        if clear.sum() - same > math.ceil((1 - self.same_class_share) * clear.sum() - 1e-9):
            problems.append(f"{same} of {clear.sum()} clear samples get the class of the ONNX file")
        return tuple(problems)

    def missing(self) -> str:
        """Why written files cannot be run on this machine; empty if they can.

        A few words after "not run here: ", such as `no C compiler` or `the package ai-edge-litert
        is not installed`. It must be fast and import nothing heavy.
        """
        return ""

    def differences(self, net: QuantizedNet) -> tuple[str, ...]:
        """What the format computes otherwise than the ONNX int8 file, one sentence each, counted.

        For instance `the weights of 3 of 12 layers have one scale a layer, not one a channel`.
        Empty where every prediction is the same by construction.
        """
        del net
        return ()


def names() -> list[str]:
    """Names of all formats, that of ONNX first."""
    return sorted(plugins.names("formats"), key=lambda name: (name != ONNX, name))


def load(name: str) -> FileFormat:
    """The format of a name.

    Raises
    ------
    ConfigError
        If there is none; the message suggests the nearest known name.
    """
    return plugins.load("formats", name, FileFormat)()  # type: ignore[type-abstract]
