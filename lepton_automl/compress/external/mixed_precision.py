"""Keep the most sensitive layers in float (mixed precision) where int8 loses too much."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

from lepton_automl.compress.evaluation import kl_divergence
from lepton_automl.compress.external.graph_process import predict_file
from lepton_automl.compress.external.quantize import (
    ExternalQuantization,
    Quantizer,
    best_bias_correction,
)
from lepton_automl.models.onnx_file import WEIGHTED

_RANKING_SAMPLES = 128
"""Training pictures used to rank layers."""

Holds = Callable[[bytes], bool]
OnProgress = Callable[[str, float], None]
"""Callback for progress: what is tried, and the fraction done, 0 to 1."""


@dataclass(frozen=True)
class MixedPrecisionResult:
    """An int8 file with some layers in float, and whether it keeps the limits."""

    nodes: tuple[str, ...]
    made: ExternalQuantization
    holds: bool


def ranked_layers(
    made: ExternalQuantization, quantizer: Quantizer, on_progress: OnProgress
) -> list[tuple[str, float]]:
    """Sensitivity: KL divergence with a single layer in int8, nats; the most sensitive first.

    A single layer in float would show less: its inputs would be rounded by the other layers.

    Parameters
    ----------
    made : ExternalQuantization
        With all layers in int8.
    quantizer : Quantizer
        The quantizer that made it.
    on_progress : callable
        Receives a text and the share that is done, 0 to 1, before each layer.
    """
    pixels = quantizer.pixels[:_RANKING_SAMPLES]
    wanted = predict_file(made.source.file, pixels)
    graph = ModelProto.FromString(made.source.file).graph
    layers = [node for node in graph.node if node.op_type in WEIGHTED and node.name]
    costs = []
    for place, layer in enumerate(layers):
        on_progress(f"sensitivity of layer {layer.name.removeprefix('net/')}", place / len(layers))
        alone = [layer.name, *_followers(graph, layer)]
        file = quantizer(made.source, averages=made.averages, only=alone)
        costs.append((layer.name, kl_divergence(wanted, predict_file(file, pixels))))
    return sorted(costs, key=lambda pair: -pair[1])


def _followers(graph: GraphProto, layer: NodeProto) -> list[str]:
    """Names of activations that an integer kernel computes together with the layer."""
    readers = [node for node in graph.node if layer.output[0] in node.input]
    return [node.name for node in readers if node.op_type in ("Relu", "Clip") and node.name]


def keep_layers_float(
    made: ExternalQuantization, quantizer: Quantizer, holds: Holds, on_progress: OnProgress
) -> list[MixedPrecisionResult]:
    """Keep the 1, 2, 4, ... most sensitive layers in float until `holds`, then as few as hold.

    Returns every attempt, the chosen one last. Where none holds, all layers are in float.
    """
    layers = [name for name, _ in ranked_layers(made, quantizer, on_progress)]
    tried: dict[int, MixedPrecisionResult] = {}

    def attempt(count: int) -> bool:
        on_progress(f"{count} of {len(layers)} layers kept in float", count / len(layers))
        new = _with_float(made, layers[:count], quantizer)
        tried[count] = MixedPrecisionResult(new.kept_float, new, holds(new.file))
        return tried[count].holds

    low, high = 0, 1
    while high < len(layers) and not attempt(high):
        low, high = high, 2 * high
    high = min(high, len(layers))
    if high not in tried:
        attempt(high)
    while tried[high].holds and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(middle) else (middle, high)
    order = [fix for count, fix in tried.items() if count != high]
    return [*order, tried[high]]


def _with_float(
    made: ExternalQuantization, nodes: Sequence[str], quantizer: Quantizer
) -> ExternalQuantization:
    file = quantizer(made.source, averages=made.averages, kept_float=nodes)
    wanted = predict_file(made.source.file, quantizer.pixels)
    file, apart, _ = best_bias_correction(file, wanted, quantizer)
    return dataclasses.replace(made, file=file, kl_divergence=apart, kept_float=tuple(nodes))
