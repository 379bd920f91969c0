"""Selections of labelled samples are those of torch, whether they lie in memory or in a file."""

import numpy as np
import pytest
import torch

from lepton_automl.core import large_arrays
from lepton_automl.data.dataset import LabelledFiles, LabelledTensors
from lepton_automl.data.tensors import joined, load_labelled, selected
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe


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


def test_a_training_on_files_ends_on_the_bits_of_one_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (120, 8, 8, 3), np.uint8), np.arange(120) % 3
    files = LabelledFiles(tmp_path / "x.npy", tmp_path / "y.npy")
    np.save(files.pixels, x)
    np.save(files.labels, y)
    arch = chain((8, 8, 3), [Stem(8, stride=1), Head()], 3)
    model, recipe = initial_model(arch, Preprocessing(128, 0.02), 0), Recipe(batch_size=32)

    def trained(data):
        parts = [selected(data, np.arange(0, 120, 2)), selected(data, np.arange(1, 120, 2))]
        return fit(model, joined(parts), recipe, epochs=2, seed=0).digest

    in_memory = trained(LabelledTensors(torch.from_numpy(x), torch.from_numpy(y)))
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 0)
    assert trained(load_labelled(files)) == in_memory
