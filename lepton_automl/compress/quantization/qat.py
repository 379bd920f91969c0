"""Quantization-aware fine-tuning: the last resort, when ranges and biases alone lose too much.

Weights and values are rounded in the forward pass as the int8 file rounds them; gradients pass
through as if they were not, except where a value is clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from lepton_automl.compress.context import Work
from lepton_automl.compress.quantization.rounding import as_stored, meaning
from lepton_automl.compress.recovery import Effort, deadline
from lepton_automl.models.model import Model, QParams
from lepton_automl.models.network import Network, build_network, extract_weights
from lepton_automl.training.loop import train_loop
from lepton_automl.training.precision import full_precision
from lepton_automl.training.recipe import Recipe

LR = 5e-4
"""Of AdamW at batch 64; folded weights bear no more."""


def finetune(model: Model, work: Work, effort: Effort) -> Model:
    """A quantized model trained on, its scales kept.

    Parameters
    ----------
    model : Model
        Quantized.
    work : Work
        The reference is the teacher.
    effort : Effort
        Pictures and passes.

    Raises
    ------
    Diverged
        If the loss becomes infinite or not a number.
    OutOfTime
        If the compression must end before the training does.
    """
    values = model.qparams
    assert values is not None, "the caller has quantized it"
    network = trainable(model, values)
    train_loop(
        network,
        effort.data,
        model.preprocessing,
        _recipe(work.recipe),
        epochs=effort.epochs,
        seed=work.seed,
        device=work.device,
        forward=simulated(network, values, work.target.weight_limit, work.device),
        teacher=work.reference.network().to(work.device),
        distill_weight=1.0,
        training_slot=work.turn,
        on_batch=deadline(work),
    )
    return _rounded(model, values, network, work.target.weight_limit)


def trainable(model: Model, values: QParams) -> Network:
    """The float network of a quantized model, with the biases its file has."""
    biases = {
        f"{op.name}.bias": meaning(op, values)["bias"] for op in model.arch.graph.weighted_ops
    }
    return build_network(model.arch, {**model.weights, **biases})


def simulated(
    network: Network, values: QParams, limit: int, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Logits as int8 arithmetic gives them, with gradients for the float weights of `network`."""
    on_value = as_stored(network.graph, values)
    scales = {name: torch.from_numpy(s).to(device) for name, s in values.weight_scales.items()}
    zeros = {
        name: torch.zeros(len(s), dtype=torch.int32, device=device) for name, s in scales.items()
    }

    def forward(x: Tensor) -> Tensor:
        weights = {
            f"modules_by_op.{name}.weight": torch.fake_quantize_per_channel_affine(
                network.get_parameter(f"modules_by_op.{name}.weight"),
                scale,
                zeros[name],
                0,
                -limit,
                limit,
            )
            for name, scale in scales.items()
        }
        with full_precision(device):
            logits: Tensor = functional_call(network, weights, (x, on_value))
        return logits

    return forward


def _recipe(recipe: Recipe) -> Recipe:
    return dataclasses.replace(
        recipe, optimizer="adamw", lr=LR, schedule="onecycle", weight_decay=0.0, label_smoothing=0.0
    )


def _rounded(model: Model, values: QParams, network: Network, limit: int) -> Model:
    """`model` with the weights of `network`, in the integers of the scales it has."""
    weights = extract_weights(network)
    integers, biases = {}, {}
    for op in network.graph.weighted_ops:
        weight, bias = (weights[f"{op.name}.{part}"].numpy() for part in ("weight", "bias"))
        scale = values.weight_scales[op.name]
        column = scale.reshape(-1, *[1] * (weight.ndim - 1))
        integers[op.name] = np.clip(np.rint(weight / column), -limit, limit).astype(np.int8)
        step = (np.float32(values.scales[op.x.name]) * scale).astype(np.float64)
        biases[op.name] = np.rint(bias / step).clip(-(2**30), 2**30).astype(np.int32)
    qparams = dataclasses.replace(values, weights=integers, biases=biases)
    return dataclasses.replace(model, weights=weights, qparams=qparams, parent=model.digest)
