"""Test pictures in their own sizes, to measure files that take pictures of any size."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import files
from lepton_automl.core.untrusted_arrays import open_npz
from lepton_automl.data.dataset import Dataset

_MOST_PICTURES = 512
_MOST_BYTES = 128 << 20
"""Of all pictures together; fewer are taken where they are large."""


@dataclass(frozen=True)
class OwnSizes:
    """Some pictures of a part."""

    places: NDArray[np.int64]
    """(n,), places in the part, ascending."""
    pictures: tuple[NDArray[np.uint8], ...]
    """n arrays (H, W, C), upright and in the channels of the net."""

    @classmethod
    def of(cls, dataset: Dataset, part: str) -> OwnSizes:
        """Up to 512 pictures of a part, evenly spaced, of at most 128 MiB together."""
        count = len(dataset.part(part))
        spaced = np.linspace(0, count - 1, min(count, _MOST_PICTURES)).round().astype(np.int64)
        pictures, left = list[NDArray[np.uint8]](), _MOST_BYTES
        for picture in dataset.own_size_pictures(part, spaced):
            left -= picture.nbytes
            if left < 0 and pictures:
                break
            pictures.append(picture)
        return cls(spaced[: len(pictures)], tuple(pictures))

    def write(self, path: Path) -> Path:
        """Write them to one `.npz` file."""
        shapes = np.array([picture.shape for picture in self.pictures], np.int64).reshape(-1, 3)
        values = [np.zeros(0, np.uint8), *(picture.reshape(-1) for picture in self.pictures)]
        content = io.BytesIO()
        np.savez(content, places=self.places, shapes=shapes, values=np.concatenate(values))
        return files.write(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> OwnSizes:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        with open_npz(path, fix="run the same command") as found:
            places, shapes, values = (found.read(name) for name in ("places", "shapes", "values"))
        ends = np.cumsum(shapes.prod(axis=1))[:-1]
        pictures = np.split(values, ends) if len(shapes) else []
        return cls(places, tuple(p.reshape(s) for p, s in zip(pictures, shapes, strict=True)))
