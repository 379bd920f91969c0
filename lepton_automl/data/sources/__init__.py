"""Sources of labelled samples, one a file: `npz.py` reads `.npz` files.

A source reads DATA of the command line into `Samples`. It opens no picture file (decode does) and
splits nothing (split does); it keeps a given split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lepton_automl.data.pictures.picture_files import Picture, Pictures
from lepton_automl.data.samples import PARTS, RawSamples, Samples

__all__ = ["PARTS", "Picture", "Pictures", "RawSamples", "Samples", "Source"]


class Source(ABC):
    """Base class of all sources; the file name is the source's name."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """Options that say how DATA is read, which the constructor takes as keyword arguments where the
    user states them: `parts`, `columns` (mappings of str to str), `root` (a folder),
    `channel_axis` (`first` or `last`), `window`, `stride` (numbers of values), `rate` (hertz),
    `mels` (bands), `skip_corrupt` (true), `dataset` (an object from Python)."""

    @abstractmethod
    def accepts(self, data: str) -> bool:
        """Whether this source can read DATA; fast, without opening large files."""

    @abstractmethod
    def read(self, data: str) -> Samples:
        """Read all samples of `data`.

        Raises
        ------
        DataError
            If the data cannot be used; the message names what is wrong and where.
        """

    def read_raw(self, data: str) -> RawSamples | Samples:
        """Read all samples of `data`, arrays unconverted where their pixel scale is not fixed.

        Raises
        ------
        DataError
            As `read`.
        """
        return self.read(data)
