"""Repair: where int8 loses too much, the layers that cost most stay float, as few as will do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

from lepton_automl.compress.evaluation import kl_divergence
from lepton_automl.compress.external.quantize import Quantized, Quantizer, answers, nearer
from lepton_automl.cost.onnx_cost import WEIGHTED

JUDGED = 128
"""Training pictures by which layers are ranked."""

Holds = Callable[[bytes], bool]
Tell = Callable[[str, float], None]
"""Told what is tried and how far, 0 to 1."""


@dataclass(frozen=True)
class Fix:
    """Some layers in float, and what came of it."""

    nodes: tuple[str, ...]
    made: Quantized
    holds: bool


def ranked_layers(made: Quantized, quantizer: Quantizer, tell: Tell) -> list[tuple[str, float]]:
    """Layers and how far the answers go astray, in nats, with that one alone in int8; most first.

    One alone in float would tell less: what it reads was rounded for its neighbours before.

    Parameters
    ----------
    made : Quantized
        All in int8.
    quantizer : Quantizer
        That made it.
    tell : callable
        Told of each layer.
    """
    pixels = quantizer.pixels[:JUDGED]
    wanted = answers(made.source.file, pixels)
    graph = ModelProto.FromString(made.source.file).graph
    layers = [node for node in graph.node if node.op_type in WEIGHTED and node.name]
    costs = []
    for place, layer in enumerate(layers):
        tell(f"what int8 costs in {layer.name.removeprefix('net/')}", place / len(layers))
        alone = [layer.name, *_followers(graph, layer)]
        file = quantizer(made.source, averages=made.averages, only=alone)
        costs.append((layer.name, kl_divergence(wanted, answers(file, pixels))))
    return sorted(costs, key=lambda pair: -pair[1])


def _followers(graph: GraphProto, layer: NodeProto) -> list[str]:
    """Names of clamps that an integer kernel does in the same go."""
    readers = [node for node in graph.node if layer.output[0] in node.input]
    return [node.name for node in readers if node.op_type in ("Relu", "Clip") and node.name]


def repaired(made: Quantized, quantizer: Quantizer, holds: Holds, tell: Tell) -> list[Fix]:
    """What was tried until `holds`, the last one the best: 1, 2, 4, ... of the dearest layers.

    Then as few as still hold. Where nothing holds, all layers end in float.
    """
    layers = [name for name, _ in ranked_layers(made, quantizer, tell)]
    tried: dict[int, Fix] = {}

    def attempt(count: int) -> bool:
        tell(f"{count} of {len(layers)} layers in float", count / len(layers))
        new = _with_float(made, layers[:count], quantizer)
        tried[count] = Fix(new.kept_float, new, holds(new.file))
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


def _with_float(made: Quantized, nodes: Sequence[str], quantizer: Quantizer) -> Quantized:
    file = quantizer(made.source, averages=made.averages, kept_float=nodes)
    wanted = answers(made.source.file, quantizer.pixels)
    file, apart, _ = nearer(file, wanted, quantizer)
    return dataclasses.replace(made, file=file, kl_divergence=apart, kept_float=tuple(nodes))
