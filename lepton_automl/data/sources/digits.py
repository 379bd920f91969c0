"""Handwritten digits of scikit-learn: 1797 grey 8x8 pictures, without a download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lepton_automl.data.sources import Samples, Source
from lepton_automl.errors import MachineError

_FILE = "datasets/data/digits.csv.gz"
"""Inside scikit-learn, whose import would take longer than a small training."""
_SIDE = 8
_TEST_SAMPLES = 360


class Digits(Source):
    """The data set `digits`, with a fixed test part of 360 pictures.

    The test part is that of `train_test_split(test_size=0.2, random_state=42)`. The 17 grey
    levels 0 to 16 become pixels 0 to 255: round(level * 255 / 16), halves to even.
    """

    def accepts(self, data: str) -> bool:
        return data == "digits"

    def read(self, data: str) -> Samples:
        with gzip.open(_file(), "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
        levels, labels = table[:, :-1].reshape(-1, _SIDE, _SIDE), table[:, -1]
        parts = np.full(len(labels), "train", dtype="<U10")
        parts[np.random.RandomState(42).permutation(len(labels))[:_TEST_SAMPLES]] = "test"
        return Samples(
            pictures=np.rint(levels * 255 / 16).astype(np.uint8)[..., None],
            labels=labels,
            class_names=tuple(str(digit) for digit in range(10)),
            ids=tuple(f"{data}[{place}]" for place in range(len(labels))),
            parts=parts,
        )


def _file() -> Path:
    found = find_spec("sklearn")
    places = found.submodule_search_locations if found else None
    for place in places or ():
        if (Path(place) / _FILE).is_file():
            return Path(place) / _FILE
    raise MachineError(
        f"digits are read from scikit-learn's {_FILE}, which is not installed here",
        fix="install scikit-learn, or give data of your own",
    )
