"""Time of one candidate's cost check: write the int8 file, load it, time it.

    python benchmarks/bench.py candidate_cost --nets 100

Random nets of at most 15 M multiply-accumulates. Nothing else should run on the machine.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time

from benchmarks.common import parser, print_table
from lepton_automl.cost.cost import file_cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.fused_mbconv import FusedMBConv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.random_weights import random_int8_onnx

LARGEST_MACS = 15_000_000
TARGET_MS = 60.0


def drawn(seed: int) -> Arch:
    """A net of 8x8 to 96x96 pictures and at most 15 M multiply-accumulates."""
    rng = random.Random(seed)
    while True:
        size = rng.choice((8, 16, 28, 32, 64, 96))
        layers: list[Layer] = [Stem(rng.choice((8, 16, 24)), stride=1 if size <= 32 else 2)]
        width = rng.choice((8, 16, 24, 32))
        for _ in range(rng.randint(2, 7)):
            kind = rng.choice((Conv, Residual, FusedMBConv, MBConv, SepConv, MaxPool))
            stride = rng.choice((1, 1, 2))
            layers.append(MaxPool() if kind is MaxPool else kind(width, stride=stride))
            width = min(width * stride, 96)
        try:
            arch = chain((size, size, rng.choice((1, 3))), [*layers, Head()], 10)
            if arch.graph.macs <= LARGEST_MACS:
                return arch
        except ArchError:
            continue


STEPS = ("lower", "write", "load", "time", "all")


def checked(arch: Arch, watch: Stopwatch) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of each step of one check, by the clock and of this process's CPU time."""
    marks = [(time.perf_counter(), time.process_time())]

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time()))

    operations = len(arch.graph.ops)
    mark()
    file = random_int8_onnx(arch, 64)
    cost = file_cost(arch, file)
    mark()
    open_session(file)
    mark()
    latency = watch.measure({"candidate": file})["candidate"]
    mark()
    assert operations
    assert cost.with_measured_latency(latency, 1.0).latency_ms
    return tuple(_steps([mark[kind] for mark in marks]) for kind in (0, 1))  # type: ignore[return-value]


def _steps(marks: list[float]) -> dict[str, float]:
    lower, write, load, measure = (1e3 * (b - a) for a, b in itertools.pairwise(marks))
    # Measuring loads the file itself; loading it once more only shows the share of that.
    taken = (lower, write, load, measure - load, lower + write + measure)
    return dict(zip(STEPS, taken, strict=True))


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser(__doc__, "candidate_cost")
    options.add_argument("--nets", type=int, default=100)
    count = options.parse_args(arguments).nets
    watch, nets = Stopwatch(), [drawn(seed) for seed in range(count)]
    rows = [checked(Arch(net.input, net.layers), watch) for net in nets]
    macs = sorted(net.graph.macs / 1e6 for net in nets)
    middle = macs[count // 2]
    print(f"{count} nets of {macs[0]:.2f} to {macs[-1]:.1f} M MACs, median {middle:.2f} M")
    table = []
    for step in STEPS:
        taken = sorted(clock[step] for clock, _ in rows)
        figures = statistics.median(taken), taken[int(0.9 * (count - 1))], taken[-1]
        busy = statistics.median(cpu[step] for _, cpu in rows)
        table.append((step, *(f"{figure:.1f}" for figure in (*figures, busy))))
    print_table(("step", "median ms", "90 % ms", "worst ms", "median CPU ms"), table)
    median = statistics.median(clock["all"] for clock, _ in rows)
    print(f"\nmedian of all {median:.1f} ms, target {TARGET_MS:.0f} ms")
    print(f"reference net: {1e3 * watch.quiet_reference_ms():.1f} us")
