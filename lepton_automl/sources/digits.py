"""scikit-learn's own handwritten digits: 1797 grey 8x8 pictures, nothing to download."""

from __future__ import annotations

import importlib

import numpy as np

from lepton_automl.sources import Samples, Source


class Digits(Source):
    """The data set called `digits`, with its locked test part of 360 pictures.

    The test part is that of `train_test_split(test_size=0.2, random_state=42)`. The 17 grey
    levels 0 to 16 become pixels 0 to 255: round(level * 255 / 16), halves to even.
    """

    def accepts(self, data: str) -> bool:
        return data == "digits"

    def read(self, data: str) -> Samples:
        # Loaded here: scikit-learn takes seconds to import, and other data do without.
        digits = importlib.import_module("sklearn.datasets").load_digits()
        split = importlib.import_module("sklearn.model_selection").train_test_split
        levels, labels = digits.images, digits.target.astype(np.int64)
        _, test = split(np.arange(len(labels)), test_size=0.2, random_state=42)
        parts = np.full(len(labels), "train", dtype="<U10")
        parts[test] = "test"
        return Samples(
            pictures=np.rint(levels * 255 / 16).astype(np.uint8)[..., None],
            labels=labels,
            class_names=tuple(str(digit) for digit in range(10)),
            ids=tuple(f"{data}[{place}]" for place in range(len(labels))),
            parts=parts,
        )
