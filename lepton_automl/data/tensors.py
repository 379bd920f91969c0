"""Labelled samples as tensors; apart from `dataset`, because torch takes seconds to load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lepton_automl.core import large_arrays
from lepton_automl.data.dataset import LabelledFiles, LabelledTensors, map_labelled
from lepton_automl.data.sampling import balanced


def load_labelled(files: LabelledFiles) -> LabelledTensors:
    """Map the pictures and labels of `files` into memory, as `map_labelled` does."""
    pixels, labels = (torch.from_numpy(array) for array in map_labelled(files))
    return LabelledTensors(pixels, labels, files.is_balanced, files.pixels.parent)


def selected(data: LabelledTensors, index: NDArray[np.int64]) -> LabelledTensors:
    """The samples at indices, in their order.

    Raises
    ------
    MachineError
        If they are large and cannot be stored.
    """
    places = torch.from_numpy(index)
    if data.pixels.device.type == "cpu":
        pixels = torch.from_numpy(large_arrays.take(data.pixels.numpy(), index, data.folder))
    else:
        pixels = data.pixels[places.to(data.pixels.device)]
    labels = data.labels[places.to(data.labels.device)]
    return LabelledTensors(pixels, labels, data.is_balanced, data.folder)


def joined(parts: Sequence[LabelledTensors]) -> LabelledTensors:
    """The samples of all parts, one part after the other.

    Raises
    ------
    MachineError
        If they are large and cannot be stored.
    """
    first = parts[0]
    values: Tensor
    if first.pixels.device.type == "cpu":
        arrays = [part.pixels.numpy() for part in parts]
        values = torch.from_numpy(large_arrays.join(arrays, first.folder))
    else:
        values = torch.cat([part.pixels for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return LabelledTensors(values, labels, first.is_balanced, first.folder)


def subset(data: LabelledTensors, count: int, seed: int) -> LabelledTensors:
    """At most `count` samples, drawn from all classes in turn; errors as of `selected`."""
    return selected(data, balanced(data.labels, count, seed))
