"""Quantization-aware fine-tuning (QAT), where post-training quantization loses too much.

The forward pass rounds weights and values as the int8 file does; gradients pass straight through
the rounding (Jacob et al. 2018, arXiv:1712.05877), except where a value is clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.quantization.rounding import dequantize, fake_quantize
from lepton_automl.compress.recovery import RecoveryBudget, time_limit
from lepton_automl.models.model import Model
from lepton_automl.models.network import Network, build_network, extract_weights
from lepton_automl.models.quantization import QParams
from lepton_automl.training.loop import train_loop
from lepton_automl.training.precision import full_precision
from lepton_automl.training.recipe import Recipe

_LR = 5e-4
"""Of AdamW at batch 64; higher rates make nets with folded weights diverge."""


def finetune(model: Model, context: CompressionContext, budget: RecoveryBudget) -> Model:
    """Fine-tune a quantized model with distillation from the reference; its scales are kept.

    Parameters
    ----------
    model : Model
        Quantized.
    context : CompressionContext
        Its reference is the teacher.
    budget : RecoveryBudget
        Data and epochs.

    Raises
    ------
    Diverged
        If the loss becomes infinite or not a number.
    OutOfTime
        If the compression must end before the training does.
    """
    qparams = model.qparams
    assert qparams is not None, "the caller has quantized it"
    network = trainable_network(model, qparams)
    train_loop(
        network,
        budget.data,
        model.preprocessing,
        _recipe(context.recipe),
        epochs=budget.epochs,
        seed=context.seed,
        device=context.device,
        forward=fake_quantized_forward(
            network, qparams, context.target.weight_limit, context.device
        ),
        teacher=context.reference.network().to(context.device),
        distill_weight=1.0,
        micro_batches=context.micro_batches(model),
        training_slot=context.training_slot,
        on_batch=time_limit(context, context.refit_seconds),
    )
    return requantize(model, qparams, network, context.target.weight_limit)


def trainable_network(model: Model, qparams: QParams) -> Network:
    """The float network of a quantized model, with its dequantized biases."""
    biases = {
        f"{op.name}.bias": dequantize(op, qparams)["bias"] for op in model.arch.graph.weighted_ops
    }
    return build_network(model.arch, {**model.weights, **biases})


def fake_quantized_forward(
    network: Network, qparams: QParams, limit: int, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The forward pass with int8 rounding; differentiable in the weights of `network`."""
    on_value = fake_quantize(network.graph, qparams)
    scales = {name: torch.from_numpy(s).to(device) for name, s in qparams.weight_scales.items()}
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
        recipe,
        optimizer="adamw",
        lr=_LR,
        schedule="onecycle",
        weight_decay=0.0,
        label_smoothing=0.0,
    )


def requantize(model: Model, qparams: QParams, network: Network, limit: int) -> Model:
    """`model` with the weights of `network`, rounded to nearest with the scales of `qparams`."""
    weights = extract_weights(network)
    integers, biases = {}, {}
    for op in network.graph.weighted_ops:
        weight, bias = (weights[f"{op.name}.{part}"].numpy() for part in ("weight", "bias"))
        scale = qparams.weight_scales[op.name]
        column = scale.reshape(-1, *[1] * (weight.ndim - 1))
        integers[op.name] = np.clip(np.rint(weight / column), -limit, limit).astype(np.int8)
        step = (np.float32(qparams.scales[op.x.name]) * scale).astype(np.float64)
        biases[op.name] = np.rint(bias / step).clip(-(2**30), 2**30).astype(np.int32)
    qparams = dataclasses.replace(qparams, weights=integers, biases=biases)
    return dataclasses.replace(model, weights=weights, qparams=qparams, parent=model.digest)
