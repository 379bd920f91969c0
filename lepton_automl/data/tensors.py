"""Labelled samples as tensors; apart from `dataset`, because torch takes seconds to load."""

from __future__ import annotations

import torch

from lepton_automl.data.dataset import LabelledFiles, LabelledTensors, map_labelled


def load_labelled(files: LabelledFiles) -> LabelledTensors:
    """Map the pictures and labels of `files` into memory, as `map_labelled` does."""
    pixels, labels = (torch.from_numpy(array) for array in map_labelled(files))
    return LabelledTensors(pixels, labels, files.is_balanced)
