"""Several trainings in one process, and one training in two processes.

    python benchmarks/bench.py packed nets --device cuda --net quick --nets 1 2 4 8 16 32
    python benchmarks/bench.py packed nets --device cpu --nets 1 4 --ways turns batched
    python benchmarks/bench.py packed ranks --rounds 3

nets: equal architectures with recipes of their own. `turns` steps one after the other, `streams`
replays a captured graph of each net on a stream of its own (CUDA alone), `batched` maps one step
over all weights with torch.func; batches of 64 from the package's own loader, SGD with Nesterov
momentum. First the distance of each way's weights from those of turns after five steps. ranks:
data-parallel training (`--final-jobs 2`) against one process, one CPU thread each.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import (
    functional_call,
    grad,
    replace_all_batch_norm_modules_,
    stack_module_state,
    vmap,
)
from torch.nn import functional as F

from benchmarks.common import BENCH, CENTRED, NETS, net, noise, parser, print_table, spread
from lepton_automl.models.arch import Arch
from lepton_automl.models.network import Network, build_network
from lepton_automl.training.distributed import ProcessGroup, init_process_group
from lepton_automl.training.loader import Loader
from lepton_automl.training.loop import initial_model, train_loop
from lepton_automl.training.precision import autocast
from lepton_automl.training.recipe import Recipe

BATCH, PICTURES = 64, 1024
WARM, TIMED = 20, 150
"""Batches of a data-parallel training before and while it is timed."""
MOMENTUM = 0.9
Step = Callable[[list[Tensor], list[Tensor]], None]
"""Moves all nets, given pictures and labels of each."""


def networks(arch: Arch, count: int, device: torch.device) -> list[Network]:
    """Without running statistics, which no step needs."""
    nets = []
    for seed in range(count):
        net = build_network(arch, seed=seed).to(device, memory_format=torch.channels_last)
        nets.append(replace_all_batch_norm_modules_(net).train())
    return nets


def rates(count: int) -> list[float]:
    """Every net has its own learning rate."""
    return [0.01 * (1 + number / count) for number in range(count)]


@torch.no_grad()
def moved(weights: list[Tensor], slopes: list[Tensor], momenta: list[Tensor], rate: Tensor) -> None:
    """SGD with Nesterov momentum, in place; `rate` is broadcast over each weight."""
    for weight, slope, momentum in zip(weights, slopes, momenta, strict=True):
        momentum.mul_(MOMENTUM).add_(slope)
        ahead = slope + MOMENTUM * momentum
        weight.sub_(
            rate.reshape(-1, *[1] * (weight.ndim - 1)) * ahead if rate.ndim else rate * ahead
        )


def loss_of(forward: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy; on a GPU in the numbers the package trains with."""
    with autocast(x.device) if x.is_cuda else contextlib.nullcontext():
        return F.cross_entropy(forward(x).float(), labels)


def turns(nets: list[Network], device: torch.device) -> Step:
    """One after the other."""
    weights = [list(net.parameters()) for net in nets]
    momenta = [[torch.zeros_like(w) for w in each] for each in weights]
    own = [torch.tensor(rate, device=device) for rate in rates(len(nets))]

    def step(x: list[Tensor], labels: list[Tensor]) -> None:
        for n, each in enumerate(nets):
            slopes = list(torch.autograd.grad(loss_of(each, x[n], labels[n]), weights[n]))
            moved(weights[n], slopes, momenta[n], own[n])

    return step


class Captured:
    """The step of one net as a graph, on a stream of its own."""

    def __init__(self, net: Network, rate: float, device: torch.device) -> None:
        shape, self.stream = net.graph.input, torch.cuda.Stream(device)
        x = torch.zeros(BATCH, shape.channels, shape.height, shape.width, device=device)
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
        self._net, self._rate = net, torch.tensor(rate, device=device)
        self._weights: list[Tensor] = list(net.parameters())
        self._momenta = [torch.zeros_like(w) for w in self._weights]
        before = [w.detach().clone() for w in self._weights]
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self._once()
        torch.cuda.synchronize(device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._once()
        with torch.no_grad():  # Warming up has moved them.
            torch._foreach_copy_(self._weights, before)
            torch._foreach_zero_(self._momenta)

    def _once(self) -> None:
        slopes = torch.autograd.grad(loss_of(self._net, self.x, self.labels), self._weights)
        moved(self._weights, list(slopes), self._momenta, self._rate)


def streams(nets: list[Network], device: torch.device) -> Step:
    """A captured graph a net, replayed on a stream of its own."""
    pairs = zip(nets, rates(len(nets)), strict=True)
    graphs = [Captured(net, rate, device) for net, rate in pairs]

    def step(x: list[Tensor], labels: list[Tensor]) -> None:
        ready = torch.cuda.current_stream(device)
        for n, each in enumerate(graphs):
            each.stream.wait_stream(ready)
            with torch.cuda.stream(each.stream):
                each.x.copy_(x[n])
                each.labels.copy_(labels[n])
                each.graph.replay()
        for each in graphs:
            ready.wait_stream(each.stream)

    return step


def batched(nets: list[Network], device: torch.device) -> Step:
    """One step of all weights at once; they are copied back into the nets."""
    stacked, buffers = stack_module_state(nets)
    names, weights = list(stacked), [w.detach() for w in stacked.values()]
    momenta = [torch.zeros_like(w) for w in weights]
    own, pattern = torch.tensor(rates(len(nets)), device=device), nets[0]

    def loss(weights: Tensors, buffers: Tensors, x: Tensor, labels: Tensor) -> Tensor:
        return loss_of(lambda x: functional_call(pattern, (weights, buffers), (x,)), x, labels)

    slopes_of = vmap(grad(loss))

    def step(x: list[Tensor], labels: list[Tensor]) -> None:
        given = dict(zip(names, weights, strict=True))
        slopes = slopes_of(given, buffers, torch.stack(x), torch.stack(labels))
        moved(weights, [slopes[name] for name in names], momenta, own)
        for n, each in enumerate(nets):
            for parameter, weight in zip(each.parameters(), weights, strict=True):
                parameter.data = weight[n]

    return step


Tensors = dict[str, Tensor]
WAYS = {"turns": turns, "streams": streams, "batched": batched}


def loaders(arch: Arch, count: int, device: torch.device) -> list[Loader]:
    """Each net's own batches."""
    data, recipe = noise(arch, PICTURES), Recipe(batch_size=BATCH)
    return [Loader(data, CENTRED, recipe, 10**4, seed, device) for seed in range(count)]


def rate_of(way: str, arch: Arch, count: int, device: torch.device, seconds: float) -> float:
    """Pictures a second of all nets together."""
    step = WAYS[way](networks(arch, count, device), device)
    sources, done, begun, number = loaders(arch, count, device), 0, 0.0, 0
    while True:
        taken = [source.batch(number) for source in sources]
        step([b.x for b in taken], [b.labels for b in taken])
        number += 1
        if number == 5:  # Kernels are chosen, graphs captured.
            _wait(device)
            begun = time.perf_counter()
        elif number > 5:
            done += count * BATCH
            if number % 10 == 0:
                _wait(device)
                if time.perf_counter() - begun > seconds:
                    return done / (time.perf_counter() - begun)


def distance(way: str, arch: Arch, device: torch.device) -> float:
    """How far weights are from those of turns after 5 steps, as a share of how far these moved."""
    found = []
    for name in (way, "turns"):
        nets = networks(arch, 2, device)
        before = [w.detach().clone() for w in nets[1].parameters()]
        step, sources = WAYS[name](nets, device), loaders(arch, 2, device)
        for number in range(5):
            taken = [source.batch(number) for source in sources]
            step([b.x for b in taken], [b.labels for b in taken])
        _wait(device)
        found.append([w.detach() - b for w, b in zip(nets[1].parameters(), before, strict=True)])
    ours, wanted = (torch.cat([w.flatten() for w in each]) for each in found)
    return float((ours - wanted).norm() / wanted.norm())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def nets_together(given: argparse.Namespace) -> None:
    """Pictures a second of all nets together, by way and number of nets."""
    device, arch = torch.device(given.device), net(given.net)
    for way in given.ways:
        print(f"{way}: {distance(way, arch, device):.1e} of the way from turns after 5 steps")
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(given.rounds):
        for way in given.ways:
            for count in given.nets:
                rate = rate_of(way, arch, count, device, given.seconds)
                found.setdefault((way, count), []).append(rate)
    alone = statistics.median(found[given.ways[0], given.nets[0]])
    rows = [
        (way, count, f"{statistics.median(each):.0f}", spread([rate / alone for rate in each]))
        for (way, count), each in found.items()
    ]
    print(f"\n{given.net}, {given.device}")
    print_table(("way", "nets", "pictures/s", "times the first row"), rows)


def rank(given: argparse.Namespace) -> None:
    """One process of a data-parallel training; rank 0 prints pictures a second of all together."""
    arch, recipe = net(given.net), Recipe(batch_size=BATCH)
    data, times = noise(arch, (WARM + TIMED) * BATCH), list[float]()
    network = initial_model(arch, CENTRED, 0).network()

    def tick(done: int, total: int) -> None:
        del done, total
        times.append(time.perf_counter())

    with init_process_group(given.meeting, ProcessGroup(given.rank, given.count)) as group:
        train_loop(
            network, data, CENTRED, recipe, epochs=1, seed=0, process_group=group, on_batch=tick
        )
    if given.rank == 0:
        print(TIMED * BATCH / (times[-1] - times[WARM - 1]))


def pictures_per_second(name: str, count: int) -> float:
    """Of `count` processes that train one net together."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        words = ["--net", name, "--meeting", meeting, "--count", str(count)]
        command = [sys.executable, str(BENCH), "packed", "rank", *words, "--rank"]
        processes = [
            subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
            for number in range(count)
        ]
        printed = [process.communicate()[0] for process in processes]
    return float(printed[0])


def ranks_together(given: argparse.Namespace) -> None:
    """One process and two in turns, a row a net."""
    rows = []
    for name in NETS:
        pairs = [
            [pictures_per_second(name, count) for count in (1, 2)] for _ in range(given.rounds)
        ]
        one, two = (f"{statistics.median(column):.0f}" for column in zip(*pairs, strict=True))
        rows.append((name, one, two, spread([second / first for first, second in pairs])))
    print_table(("net", "one process, pictures/s", "two", "ratio [least, most]"), rows)


def main(arguments: list[str]) -> None:
    """Print one of the two tables."""
    options = parser(__doc__, "packed")
    options.add_argument("what", choices=("nets", "ranks", "rank"))
    options.add_argument("--net", choices=NETS, default="quick")
    options.add_argument("--device", default="cuda")
    options.add_argument("--nets", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    options.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--meeting", help=argparse.SUPPRESS)
    options.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    {"nets": nets_together, "ranks": ranks_together, "rank": rank}[given.what](given)
