"""Which channels to cut: several importances, with and without least squares, with a recovery.

    python benchmarks/importances.py fashion=fashion_mnist.npz cifar10=cifar10.npz --seeds 3

Nets are trained on a part of the training pictures, 40 % of their cost (bytes and
multiply-accumulates alike) is cut away by each importance; they learn from the whole net for 400
batches, as cut and as refitted by least squares. Judged on validation pictures; no test part is
opened. Every net is one line of the file; what is there is not trained again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from ablations import Bench
from int8 import each_net
from torch import Tensor

from lepton_automl.compress.context import Work
from lepton_automl.compress.pruning.candidates import channel_steps, chosen
from lepton_automl.compress.pruning.cut import cut
from lepton_automl.compress.pruning.importance import filter_length, importance, makers
from lepton_automl.compress.pruning.refit import refit
from lepton_automl.compress.pruning.savings import Savings
from lepton_automl.compress.recovery import LEAST_BATCHES, Effort, recover
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.data.sampling import balanced
from lepton_automl.models.graph import Conv
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import is_correct

SHARE = 0.4
PICTURES = 512
USED = ("fashion, quick", "fashion, large", "cifar10, half")

Scores = dict[str, Tensor]


def scales(model: Model, data: LabelledTensors, seed: int) -> Scores:
    """Size of batch normalisation's factor (Liu et al. 2017, arXiv:1708.06519)."""
    del data, seed
    return _over_makers(model, lambda name: model.weights[f"{name}.norm.weight"].abs())


def chance(model: Model, data: LabelledTensors, seed: int) -> Scores:
    """No importance at all."""
    del data
    draws = torch.Generator().manual_seed(seed)
    return {w.name: torch.rand(w.size, generator=draws) for w in model.arch.graph.widths}


def taylor(model: Model, data: LabelledTensors, seed: int) -> Scores:
    """First-order change of the labels' loss (Molchanov et al. 2017, arXiv:1611.06440)."""
    values, labels = _seen(model, data, seed)
    loss = torch.nn.functional.cross_entropy(values["logits"], labels)
    names = [n for w in model.arch.graph.widths for n in makers(model.arch.graph, w)]
    found = torch.autograd.grad(loss, [values[name] for name in names])
    gradients = dict(zip(names, found, strict=True))
    effect = {n: (values[n] * gradients[n]).sum((2, 3)).abs().mean(0).detach() for n in names}
    return _over_makers(model, effect.__getitem__)


def reconstruction(model: Model, data: LabelledTensors, seed: int) -> Scores:
    """What the layers that read a channel would miss: its mean square times their weights'."""
    values, _ = _seen(model, data, seed)
    graph, found = model.arch.graph, {}
    for width in graph.widths:
        total = torch.zeros(width.size)
        for op in graph.weighted_ops:
            if op.x.axis in width.axes and not (isinstance(op, Conv) and op.depthwise):
                weight = model.weights[f"{op.name}.weight"]
                power = values[op.x.name].square().mean((0, 2, 3)).detach()
                total += power * weight.square().transpose(0, 1).flatten(1).sum(1)
        found[width.name] = total
    return found


WAYS: dict[str, Callable[[Model, LabelledTensors, int], Scores]] = {
    "Fisher information of the answers (ours)": importance,
    "first-order change of the loss": taylor,
    "what readers would miss": reconstruction,
    "length of the filters (ours)": filter_length,
    "batch normalisation's factor": scales,
    "chance": chance,
}


def _over_makers(model: Model, score: Callable[[str], Tensor]) -> Scores:
    graph = model.arch.graph
    owners = {op.y.name: op.name for op in graph.weighted_ops}
    return {
        width.name: torch.stack([score(owners[v]) for v in makers(graph, width)]).sum(0)
        for width in graph.widths
    }


def _seen(model: Model, data: LabelledTensors, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Values of all operations on some training pictures, and the labels of these."""
    ids, values = balanced(data.labels, PICTURES, seed), {}

    def keep(name: str, value: Tensor) -> Tensor:
        values[name] = value
        return value

    x = model.preprocessing.apply(data.pixels[ids])
    values["logits"] = model.network()(x, keep)
    return values | {model.arch.graph.input.name: x}, data.labels[ids]


def tried(model: Model, bench: Bench, seed: int) -> dict[str, Any]:
    """Accuracy before; of each way after the cut, after recovery, and the share of MACs left."""
    target = targets.load()
    work = Work(bench.train, bench.validation, model, Limits(), target, bench.recipe, seed=seed)
    steps, saves = channel_steps(model.arch, target.channel_step), Savings(model.arch, 0.5, 0.5)
    epochs = math.ceil(LEAST_BATCHES * bench.recipe.batch_size / len(bench.train))
    pixels, found = bench.train.pixels[balanced(bench.train.labels, PICTURES, seed)], {}
    for name, way in WAYS.items():
        scores, less, kept = way(model, bench.train, seed), model, {}
        for width, size in chosen(model.arch, scores, steps, SHARE, saves).items():
            kept[width] = torch.topk(scores[width], size).indices.sort().values
            less = cut(less, width, kept[width].tolist())
        fitted = refit(less, model, kept, pixels)
        mended = [recover(each, work, Effort(bench.train, epochs)) for each in (less, fitted)]
        right = [float(is_correct(m, bench.validation).mean()) for m in (less, fitted, *mended)]
        found[name] = [*right, less.arch.graph.macs / model.arch.graph.macs]
    before = float(is_correct(model, bench.validation).mean())
    return {"before": before, "ways": found}


def main() -> None:
    """Train and cut what is missing, then a table."""
    known = each_net(__doc__, "importances.jsonl", USED, tried)
    tasks = [task for task in USED if any(row["key"][0] == task for row in known)]
    print("points lost: at once, refitted; after recovery, without and with\n")
    print(f"| | {' | '.join(tasks)} |\n|---|{'---|' * len(tasks)}")
    for way in WAYS:
        cells = [cell([row for row in known if row["key"][0] == task], way) for task in tasks]
        print(f"| {way} | {' | '.join(cells)} |")


def cell(rows: list[dict[str, Any]], way: str) -> str:
    """Means over seeds; of what is recovered with its standard deviation."""
    lost = [[100 * (row["before"] - part) for part in row["ways"][way][:4]] for row in rows]
    once, fitted, *ends = zip(*lost, strict=True)
    shown = [f"{statistics.mean(each):.1f}" for each in (once, fitted)]
    for each in ends:
        spread = statistics.stdev(each) if len(each) > 1 else math.nan
        shown.append(f"{statistics.mean(each):+.2f} ± {spread:.2f}")
    return f"{', '.join(shown[:2])}; {', '.join(shown[2:])} ({len(lost)})"


if __name__ == "__main__":
    main()
