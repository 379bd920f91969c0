"""How many nets of the space `audio` are as small as keyword spotting asks for.

    python benchmarks/bench.py keyword_nets

Random samples of the space for the features of 1 s at 16 kHz (49 frames, 40 bands) and 12 classes,
and its known-good nets. Parameters and multiply-accumulates are counted twice: as lepton states
them, and by torch's counter of floating-point operations, two a multiply-accumulate.
"""

from __future__ import annotations

import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import parser, print_table
from lepton_automl.cost import targets
from lepton_automl.models.arch import Arch
from lepton_automl.models.network import Network
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial


def counted_by_torch(arch: Arch) -> tuple[int, int]:
    """Parameters, with one bias a channel, and multiply-accumulates of a forward pass."""
    net = Network(arch.graph, folded=True).eval()
    height, width, channels = arch.input
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, channels, height, width))
    return sum(each.numel() for each in net.parameters()), counter.get_total_flops() // 2


def stated(arch: Arch) -> tuple[int, int]:
    """Parameters and multiply-accumulates as lepton counts them."""
    ops = arch.graph.weighted_ops
    return sum(torch.Size(op.weight_shape).numel() + op.weight_shape[0] for op in ops), (
        arch.graph.macs
    )


def main(arguments: list[str]) -> int:
    """Sample, count, print."""
    options = parser(__doc__, "keyword_nets")
    options.add_argument("--space", default="audio")
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--classes", type=int, default=12)
    options.add_argument("--parameters", type=int, default=15_000)
    options.add_argument("--macs", type=int, default=1_500_000)
    given = options.parse_args(arguments)
    space, target = loader.load(given.space), targets.load()
    draws = [RandomTrial(seed) for seed in range(given.samples)]
    named = [RandomTrial(0, params) for params in space.candidates]
    counts = []
    for draw in (*draws, *named):
        arch, _ = space.sample(
            draw, size=(49, 40), channels=1, classes=given.classes, target=target
        )
        counts.append(stated(arch))
        if counts[-1] != (found := counted_by_torch(arch)):
            raise SystemExit(f"{counts[-1]} stated, {found} counted by torch: {arch}")
    rows = [
        [name, *(f"{number:,}" for number in count), "yes" if fits(count, given) else "no"]
        for name, count in zip(space.candidate_names, counts[len(draws) :], strict=True)
    ]
    print_table(["net", "parameters", "multiply-accumulates", "within both"], rows)
    drawn = counts[: len(draws)]
    inside = [count for count in drawn if fits(count, given)]
    parameters, macs = (statistics.median(count[n] for count in drawn) for n in (0, 1))
    print(
        f"{len(inside)} of {len(drawn)} random nets have at most {given.parameters:,} parameters "
        f"and {given.macs:,} multiply-accumulates; medians {parameters:,.0f} and {macs:,.0f}, "
        f"smallest {min(n for n, _ in drawn):,} and {min(n for _, n in drawn):,}"
    )
    return 0


def fits(count: tuple[int, int], given: object) -> bool:
    """Whether a net is within both limits."""
    parameters, macs = count
    return parameters <= given.parameters and macs <= given.macs  # type: ignore[attr-defined]
