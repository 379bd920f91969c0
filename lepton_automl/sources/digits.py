"""scikit-learn's own handwritten digits: 1797 grey 8x8 pictures, nothing to download."""

from __future__ import annotations

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
        # Here, because scikit-learn takes a second to import and other sources do without.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        levels, labels = load_digits().images, load_digits().target.astype(np.int64)
        _, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=42)
        parts = np.full(len(labels), "train", dtype="<U10")
        parts[test] = "test"
        return Samples(
            pictures=np.rint(levels * 255 / 16).astype(np.uint8)[..., None],
            labels=labels,
            class_names=tuple(str(digit) for digit in range(10)),
            ids=tuple(f"{data}[{place}]" for place in range(len(labels))),
            parts=parts,
        )
