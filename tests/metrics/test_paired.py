from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.metrics.paired import Evidence, worst_class_drop

LABELS = np.repeat([0, 3, 7], [100, 10, 50])


def evidence(*right: int) -> Evidence:
    """So many correct samples of each class."""
    counts = zip((100, 10, 50), right, strict=True)
    correct = np.concatenate([np.arange(count) < n for count, n in counts])
    return Evidence(correct, labels=LABELS)


def test_the_worst_class_drop_is_the_largest_drop_of_one_class_in_points() -> None:
    reference, file = evidence(90, 9, 40), evidence(88, 8, 45)
    assert worst_class_drop(reference, file) == pytest.approx(10)
    assert worst_class_drop(file, reference) == pytest.approx(10)  # Class 7.


def test_the_worst_class_drop_needs_labels() -> None:
    plain = Evidence(np.ones(3, bool))
    with pytest.raises(ValueError, match="labels"):
        worst_class_drop(plain, plain)
