"""What every point of a sub-space costs before any training, with proxies of its worth.

Command: python benchmarks/scheduler/costs.py tiny fashion_mnist.npz
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import record
import torch
from torch import Tensor
from torch.nn import functional as F

from lepton_automl.core import files
from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.models.arch import Arch
from lepton_automl.models.network import build_network
from lepton_automl.models.random_weights import random_int8_onnx

BATCH = 256
"""Pictures the proxies look at."""


def gradient_norm(arch: Arch, pictures: Tensor, labels: Tensor) -> float:
    """Log norm of the gradient of the first batch (Abdelfattah et al. 2021, section 3.2)."""
    network = build_network(arch, seed=0).train()
    loss = F.cross_entropy(network(pictures), labels)
    torch.autograd.backward(loss)
    total = sum(float((p.grad**2).sum()) for p in network.parameters() if p.grad is not None)
    return 0.5 * math.log(total)


def synflow(arch: Arch) -> float:
    """Log synaptic flow (Tanaka et al. 2020, arXiv:2006.05467, equation 1), without norms."""
    network = build_network(arch, seed=0).eval().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    ones = torch.ones(1, arch.input[2], *arch.input[:2], dtype=torch.float64)
    torch.autograd.backward(network(ones).sum())
    pairs = [(p, p.grad) for p in network.parameters() if p.grad is not None and p.ndim > 1]
    return math.log(sum(float((p.detach() * g).sum().abs()) for p, g in pairs))


def measured(arch: Arch, pictures: Tensor, labels: Tensor, watch: Stopwatch) -> dict[str, float]:
    """Costs as the search checks them, and proxies."""
    limit = targets.load().weight_limit
    cost, latency = (
        static_cost(arch, limit),
        watch.measure({"net": random_int8_onnx(arch, limit)})["net"],
    )
    return {
        "size_bytes": cost.size_bytes,
        "macs": cost.macs,
        "parameters": cost.weight_bytes,
        "latency_ratio": round(latency.ratio, 4),
        "gradient_norm": round(gradient_norm(arch, pictures, labels), 4),
        "synflow": round(synflow(arch), 4),
    }


def main() -> None:
    """Write `tables/NAME-costs.json`: a row for every point, in the table's order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(record.SIDES))
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, _ = record.subset(given.data, record.SIDES[given.name])
    pictures = train.pixels[:BATCH].permute(0, 3, 1, 2).float()
    pictures = (pictures - pictures.mean()) / pictures.std()
    watch, known, rows = Stopwatch(), dict[Arch, dict[str, float]](), []
    for number, point in enumerate(record.points(given.name)):
        arch, _ = record.net_of(given.name, point)
        if arch not in known:
            known[arch] = measured(arch, pictures, train.labels[:BATCH], watch)
        rows.append({"number": number} | known[arch])
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    files.write(record.HERE / "tables" / f"{given.name}-costs.json", f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
