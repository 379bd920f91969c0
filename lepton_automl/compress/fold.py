"""Batch normalisation moved into the convolutions: the form that is quantized."""

from __future__ import annotations

import dataclasses

import torch

from lepton_automl.exporters.onnx import folded_weights
from lepton_automl.model import Model


def fold(model: Model) -> Model:
    """The same function without batch normalisation.

    Every convolution owns `{op}.weight` and `{op}.bias` afterwards. A folded model is returned
    as it is.
    """
    if model.is_folded:
        return model
    weights = {}
    for op in model.arch.graph.weighted_ops:
        weight, bias = folded_weights(model, op)
        weights[f"{op.name}.weight"] = torch.from_numpy(weight.copy())
        weights[f"{op.name}.bias"] = torch.from_numpy(bias.copy())
    return dataclasses.replace(model, weights=weights, qparams=None, parent=model.digest)
