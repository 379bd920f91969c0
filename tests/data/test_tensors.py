"""Selections of labelled samples are those of torch, whether they lie in memory or in a file."""

import numpy as np
import pytest
import torch

from lepton_automl.core import large_arrays
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.tensors import joined, selected


@pytest.mark.parametrize("largest", [0, 1 << 30])
def test_selected_and_joined_samples_are_those_of_torch(largest, tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", largest)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (50, 4, 3, 2), np.uint8))
    data = LabelledTensors(pixels, torch.arange(50), True, tmp_path)
    index = rng.permutation(50)[:20]
    made = selected(data, index)
    assert torch.equal(made.pixels, pixels[index])
    assert torch.equal(made.labels, torch.arange(50)[index])
    whole = joined([data, made])
    assert torch.equal(whole.pixels, torch.cat([pixels, pixels[index]]))
    assert whole.labels.tolist() == [*range(50), *index.tolist()]
    assert (made.is_balanced, whole.is_balanced, whole.folder) == (True, True, tmp_path)
    assert not list(tmp_path.iterdir())
