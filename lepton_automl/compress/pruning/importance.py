"""How much each channel matters, by several measures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.graph import Conv, Graph, Width
from lepton_automl.models.model import Model

TEMPERATURE = 4.0
"""Softens the answers: nets that are sure of themselves have no gradients otherwise."""
BATCH = 64


def importance(model: Model, data: LabelledTensors, seed: int) -> dict[str, Tensor]:
    """Expected harm of silencing each channel, comparable between widths.

    To second order the divergence between the answers with and without a channel is half its
    Fisher information, the mean square over pictures of activation times gradient of a label
    drawn from the net's own answers.

    Parameters
    ----------
    model : Model
        Folded or not.
    data : Labelled
        Training pictures; the labels only balance the choice among them.
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
    for part in torch.split(pixels, BATCH):
        values: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor, values: dict[str, Tensor] = values) -> Tensor:
            values[name] = value
            return value

        logits = network(model.preprocessing.apply(part), keep) / TEMPERATURE
        drawn = torch.multinomial(logits.softmax(1).detach(), 1, generator=generator)[:, 0]
        loss = F.cross_entropy(logits, drawn, reduction="sum")
        for width in graph.widths:
            total[width.name] += _squares(loss, [values[name] for name in makers(graph, width)])
    return {name: squares / (2 * len(pixels)) for name, squares in total.items()}


def filter_length(model: Model, data: LabelledTensors, seed: int) -> dict[str, Tensor]:
    """Length of the filters that make a channel (Li et al. 2017, section 3, arXiv:1608.08710).

    Parameters and result as of `importance`; looks at no picture.
    """
    del data, seed
    graph = model.arch.graph
    owners = {op.y.name: op.name for op in graph.weighted_ops}
    return {
        width.name: torch.stack(
            [
                model.weights[f"{owners[value]}.weight"].flatten(1).norm(dim=1)
                for value in makers(graph, width)
            ]
        ).sum(0)
        for width in graph.widths
    }


def makers(graph: Graph, width: Width) -> list[str]:
    """Values in which the channels of a width begin; depthwise filters only pass them on."""
    return [
        op.y.name
        for op in graph.weighted_ops
        if isinstance(op, Conv) and not op.depthwise and op.y.axis in width.axes
    ]


def _squares(loss: Tensor, values: list[Tensor]) -> Tensor:
    """Sum over pictures of the squared first-order effect of each channel."""
    gradients = torch.autograd.grad(loss, values, retain_graph=True)
    effects = [(v * g).sum((2, 3)) for v, g in zip(values, gradients, strict=True)]
    return torch.stack(effects).sum(0).detach().square().sum(0)


IMPORTANCES = {"what the answers lose": importance, "the length of their filters": filter_length}
"""Those that a cut is tried with. After a refit and a recovery no other one was better than the
better of these."""
