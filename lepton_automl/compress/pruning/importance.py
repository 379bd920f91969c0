"""Importance of channels, by a Taylor expansion of the loss or by the norm of filters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.graph import Conv, Graph, Width
from lepton_automl.models.model import Model
from lepton_automl.training.memory import evaluation_batch

TEMPERATURE = 4.0
"""Of the softmax: without it, confident predictions have vanishing gradients."""
_BATCH_SIZE = 64


def taylor_importance(model: Model, data: LabelledTensors, seed: int) -> dict[str, Tensor]:
    """KL divergence to second order when a channel is set to zero, comparable between widths.

    It is half the Fisher information: the mean square over pictures of activation times gradient,
    for a label drawn from the net's own probabilities.

    Parameters
    ----------
    model : Model
        Folded or not.
    data : LabelledTensors
        Training pictures; labels only balance the choice among them.
    seed : int
        Of the choice of pictures and of the drawn labels.

    Returns
    -------
    dict of str to Tensor
        Width name -> float32 (channels,), at least 0.

    Source
    ------
    Theis et al. 2018, section 3.1 (arXiv:1801.05787); Molchanov et al. 2019 (arXiv:1906.10771).
    """
    graph, network = model.arch.graph, model.network()
    generator = torch.Generator().manual_seed(seed)
    pixels = data.pixels[balanced(data.labels, PICTURES, seed)]
    total = {width.name: torch.zeros(width.size) for width in graph.widths}
    size = evaluation_batch(graph, _BATCH_SIZE)
    for batch in torch.split(pixels, size):
        values: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor, values: dict[str, Tensor] = values) -> Tensor:
            values[name] = value
            return value

        logits = network(model.preprocessing.apply(batch), keep) / TEMPERATURE
        drawn = torch.multinomial(logits.softmax(1).detach(), 1, generator=generator)[:, 0]
        loss = F.cross_entropy(logits, drawn, reduction="sum")
        for width in graph.widths:
            sources = [values[name] for name in source_values(graph, width)]
            total[width.name] += _squared_effects(loss, sources)
    return {name: squares / (2 * len(pixels)) for name, squares in total.items()}


def filter_norm(model: Model, data: LabelledTensors, seed: int) -> dict[str, Tensor]:
    """L2 norm of the filters of each channel (Li et al. 2017, section 3, arXiv:1608.08710).

    Parameters and result as of `taylor_importance`; data and seed are not used.
    """
    del data, seed
    graph = model.arch.graph
    owners = {op.y.name: op.name for op in graph.weighted_ops}
    return {
        width.name: torch.stack(
            [
                model.weights[f"{owners[value]}.weight"].flatten(1).norm(dim=1)
                for value in source_values(graph, width)
            ]
        ).sum(0)
        for width in graph.widths
    }


def source_values(graph: Graph, width: Width) -> list[str]:
    """Names of the values in which the channels of a width originate: of dense convolutions."""
    return [
        op.y.name
        for op in graph.weighted_ops
        if isinstance(op, Conv) and not op.depthwise and op.y.axis in width.axes
    ]


def _squared_effects(loss: Tensor, values: list[Tensor]) -> Tensor:
    """Sum over pictures of the squared first-order effect of each channel, (channels,)."""
    gradients = torch.autograd.grad(loss, values, retain_graph=True)
    effects = [(v * g).sum((2, 3)) for v, g in zip(values, gradients, strict=True)]
    return torch.stack(effects).sum(0).detach().square().sum(0)


IMPORTANCES = {"Taylor importance": taylor_importance, "filter norm": filter_norm}
"""Importances that channels are cut by. After reconstruction and recovery no other one was better
than the better of these ("Which channels are cut" in docs/decisions.md)."""
