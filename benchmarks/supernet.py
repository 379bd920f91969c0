"""Weight sharing: one supernet whose slices are the candidates, against trainings of their own.

    python benchmarks/supernet.py fashion_12k.npz --space tiny --max-size-kb 30 --seconds 480

One process, one thread; prints one line of JSON. All but widths, depths and kernels is as in the
space's first known-good candidate. The largest net learns from labels, its sub-nets from it too
(sandwich rule and in-place distillation, Yu and Huang 2019, arXiv:1903.05134). Candidates are cut
out, normalised anew and ranked on validation; the best are trained on, one is quantized and judged
on the test part once. `--processor`: seconds are processor time; `--inside`: no net beyond the
limit is trained; `--blind`: the test part is left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.quantize import Quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.data.dataset import Dataset, LabelledTensors, open_dataset
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.network import Network, build_network, extract_weights
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.search.space import loader, search_space
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.parameters import Scalar
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loader import Batch, Loader
from lepton_automl.training.loop import CPU, fit, recalibrate_batchnorm
from lepton_automl.training.loss import Loss
from lepton_automl.training.optim import Optimizer, lr_schedule
from lepton_automl.training.recipe import Recipe

NESTING = ("out", "depth", "kernel")
"""Fields whose smaller values are part of larger ones."""
RANDOM, PARENTS, TUNED, TUNE_RATE = 2, 6, 2, 0.5
"""Random sub-nets a batch; the best candidates that others are drawn beside; those trained on, and
at which of the recipe's learning rate."""
LOOK, KEPT = 0.1, 0.05
"""Of the time: to rank candidates; to quantize and judge one."""
NUMBERS = {"max-size-kb": 1e9, "seconds": 480.0, "share": 0.45, "softness": 0.5, "rate": 1.0}
"""Limit and time; of it, the supernet's; weight of the largest net's answers; its learning rate in
those of the recipe."""
TARGET = targets.load()
Params = dict[str, Scalar]


@dataclass(frozen=True, eq=False)
class Sub:
    """A sub-net: a real architecture, and where each of its tensors lies in the shared ones."""

    params: Params
    arch: Arch
    network: Network
    names: Mapping[str, str]
    """Name in the network -> name among the shared."""


class Nest:
    """All sub-nets of a space that differ in widths, depths and kernels alone."""

    def __init__(self, found: search_space.SearchSpace, data: Dataset) -> None:
        self._space, self._data = found, data
        self._known: dict[str, Sub] = {}
        fields = {path: knob.values for path, knob in found.parameters().items()}
        self.open = {p: sorted(v) for p, v in fields.items() if p.rsplit(".", 1)[1] in NESTING}
        self.largest = self.sub({path: values[-1] for path, values in self.open.items()})
        self.smallest = self.sub({path: values[0] for path, values in self.open.items()})

    def made(self, given: Params) -> tuple[Arch, Recipe]:
        """Architecture and recipe of the first candidate with some choices changed."""
        data, draw = self._data, RandomTrial(0, self._space.candidates[0] | given)
        size, channels, classes = data.size, data.channels, len(data.class_names)
        shape: Any = {"size": size, "channels": channels, "classes": classes}
        return self._space.sample(draw, **shape, target=TARGET)

    def sub(self, given: Params) -> Sub:
        """The sub-net of these choices."""
        arch, _ = self.made(given)
        if arch.hash not in self._known:
            slots, network, names = self._slots(given), build_network(arch).train(), {}
            for name, _ in network.named_parameters():
                index, rest = name.removeprefix("modules_by_op.").split("/", 1)
                names[name] = f"{slots[int(index)]}/{rest}"
            self._known[arch.hash] = Sub(given, arch, network, names)
        return self._known[arch.hash]

    def _slots(self, given: Params) -> list[str]:
        """Where each layer lies in the largest net; each stage that may be the last has a head."""
        params = self._space.candidates[0] | given
        slots, last = ["stem"], "stem"
        for table in self._space.stages:
            depth = int(params.get(f"{table.path}.depth", table.depth.values[0]))
            slots += [f"{table.path}.{number}" for number in range(depth)]
            last = table.path if depth else last
        return [*slots, f"head after {last}"]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the shared tensors: as large as any sub-net needs, by name."""
        ends = {p: v if p.endswith("depth") else [v[0], v[-1]] for p, v in self.open.items()}
        found: dict[str, tuple[int, ...]] = {}
        for values in itertools.product(*ends.values()):
            sub = self.sub(dict(zip(ends, values, strict=True)))
            for own, tensor in sub.network.named_parameters():
                before = found.get(sub.names[own], tensor.shape)
                found[sub.names[own]] = tuple(map(max, before, tensor.shape))
        self._known.clear()
        return found

    def drawn(self, draws: random.Random, limit: float, parent: Params) -> Sub:
        """A random sub-net with weights inside the limit, much like `parent` if there is one."""
        while True:
            given = {path: draws.choice(values) for path, values in self.open.items()}
            kept = {path: value for path, value in parent.items() if draws.random() < 0.7}
            sub = self.sub(given | kept)
            if sum(math.prod(op.weight_shape) for op in sub.arch.graph.weighted_ops) <= limit:
                return sub


class Supernet:
    """The shared tensors, their training, and candidates cut out of them."""

    def __init__(self, data: Dataset, given: argparse.Namespace) -> None:
        self.given, self.clock = given, time.process_time if given.processor else time.monotonic
        self.begun = 0.0 if given.processor else time.monotonic()
        self.nest = Nest(loader.load(given.space), data)
        self.data, self.draws = data, random.Random(given.seed)
        arch, self.recipe = self.nest.made({})
        self.preprocessing = data.preprocessing(arch.input[:2])
        self.train, self.validation = self.part("train"), self.part("validation")
        torch.manual_seed(given.seed)
        self.shared = {name: _fresh(name, shape) for name, shape in self.nest.shapes().items()}
        self.limit = 1000 * float(given.max_size_kb)

    @property
    def spent(self) -> float:
        """Share of the time."""
        return (self.clock() - self.begun) / float(self.given.seconds)

    def part(self, name: str) -> LabelledTensors:
        """A part of the data at the resolution of the nets."""
        pixels = self.data.pixels(name, self.nest.largest.arch.input[:2])
        labels = np.asarray(self.data.part(name).labels)
        return LabelledTensors(torch.from_numpy(pixels), torch.from_numpy(labels))

    def weights(self, sub: Sub) -> dict[str, Tensor]:
        """Slices of the shared tensors, by the names of the sub-net's network."""
        own = dict(sub.network.named_parameters())
        return {name: _cut(self.shared[sub.names[name]], own[name].shape) for name in own}

    def learn(self, batch: Batch, recipe: Recipe) -> None:
        """Add the gradients of the sandwich: the largest, then what it teaches."""
        inside, softness = bool(self.given.inside), float(self.given.softness)
        subs = [self.nest.drawn(self.draws, self.limit, {}) for _ in range(RANDOM + inside)]
        subs.sort(key=lambda sub: sub.arch.graph.macs)
        lead = subs.pop() if inside else self.nest.largest
        logits = functional_call(lead.network, self.weights(lead), batch.x)
        torch.autograd.backward(Loss(recipe, None, 0.0, 1.0)(logits, batch))
        wanted = logits.detach()
        guided = Loss(recipe, lambda _: wanted, softness, 1.0)
        for sub in (self.nest.smallest, *subs):
            answer = functional_call(sub.network, self.weights(sub), batch.x)
            torch.autograd.backward(guided(answer, batch))
        for tensor in self.shared.values():
            tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad

    def taught(self) -> float:
        """Train until the supernet's share of the time is spent; passes over the training part."""
        own = dataclasses.replace(
            self.recipe, lr=self.recipe.lr * self.given.rate, plain_finish=0.0
        )
        plain = dataclasses.replace(own, augment=0.0, cutout=0.0)
        optimizer = Optimizer(self.shared.values(), own, own.batch_size)
        scale, pictures = lr_schedule(own.schedule, 1000), 0
        endless: Any = {"epochs": 10_000, "seed": self.given.seed, "device": CPU}
        first, share = self.spent, float(self.given.share) - self.spent
        for recipe, until in ((own, 1 - self.recipe.plain_finish), (plain, 1.0)):
            batches = Loader(self.train, self.preprocessing, recipe, **endless)
            for step in range(batches.steps):
                now = (self.spent - first) / share
                if now >= until:
                    break
                self.learn(batches.batch(step), recipe)
                optimizer.step(scale[int(1000 * now)])
                pictures += batches.batch_size
        return pictures / len(self.train)

    def model(self, sub: Sub) -> Model:
        """The sub-net as a model, its batch normalisation measured anew."""
        cut = {k.removeprefix("modules_by_op."): v.detach() for k, v in self.weights(sub).items()}
        network = build_network(sub.arch, extract_weights(build_network(sub.arch)) | cut)
        recalibrate_batchnorm(
            network, self.train, self.preprocessing, seed=self.given.seed, device=CPU
        )
        return Model(sub.arch, extract_weights(network), self.preprocessing)

    def score(self, model: Model) -> float:
        """Accuracy on validation."""
        return float(is_correct(model, self.validation).mean())

    def ranked(self) -> list[tuple[float, Sub]]:
        """Candidates by validation, the best first: drawn at random, then beside the best."""
        first, last = self.spent, self.spent + LOOK
        found: dict[str, tuple[float, Sub]] = {}
        while self.spent < last or len(found) < PARENTS:
            best = sorted(found.values(), key=lambda pair: -pair[0])[:PARENTS]
            is_late = 2 * self.spent > first + last and len(best) == PARENTS
            parent = self.draws.choice(best)[1].params if is_late else {}
            sub = self.nest.drawn(self.draws, self.limit, parent)
            size = static_cost(sub.arch, TARGET.weight_limit).size_bytes
            if sub.arch.hash not in found and size <= self.limit:
                found[sub.arch.hash] = (self.score(self.model(sub)), sub)
        return sorted(found.values(), key=lambda pair: -pair[0])

    def tuned(self, ranked: list[tuple[float, Sub]]) -> tuple[float, Model]:
        """The best few trained on, an equal share of the time each; the best of all by then."""
        models = [self.model(sub) for _, sub in ranked[:TUNED]]
        results = [(ranked[0][0], models[0])]
        recipe = dataclasses.replace(self.recipe, lr=self.recipe.lr * TUNE_RATE)
        few = LabelledTensors(self.train.pixels[:2048], self.train.labels[:2048])
        for number, model in enumerate(models):
            seconds = (1 - KEPT - self.spent) / (len(models) - number) * self.given.seconds
            begun = self.clock()
            fit(model, few, recipe, epochs=1, seed=0)
            took = self.clock() - begun
            if epochs := int((seconds - took) / (took * len(self.train) / len(few))):
                done = fit(model, self.train, recipe, epochs=epochs, seed=self.given.seed + number)
                results.append((self.score(done), done))
        return max(results, key=lambda pair: pair[0])

    def shipped(self, model: Model) -> bytes:
        """The int8 file, quantized as lepton does, without training."""
        parts, settings = (self.train, self.validation), (self.recipe, self.given.seed)
        work = Work(*parts, model, Limits(), TARGET, *settings)
        return int8_file(Quantize()(model, work))


def _fresh(name: str, shape: tuple[int, ...]) -> nn.Parameter:
    """A shared tensor before the first batch."""
    tensor = torch.full(shape, 1.0 if name.endswith("norm.weight") else 0.0)
    if len(shape) == 2:
        nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))
    if len(shape) == 4:
        nn.init.kaiming_normal_(tensor, mode="fan_out" if shape[1] > 1 else "fan_in")
    return nn.Parameter(tensor)


def _cut(whole: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first channels and the middle of the kernel."""
    for axis, size in enumerate(shape):
        start = (whole.shape[axis] - size) // 2 if axis > 1 else 0
        whole = whole.narrow(axis, start, size)
    return whole


def main() -> None:
    """Train, rank, train on, quantize, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help=".npz as lepton reads it")
    parser.add_argument("--space", default="residual", choices=["tiny", "residual"])
    parser.add_argument("--seed", type=int, default=0)
    for name, default in NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    for flag in ("processor", "inside", "blind"):
        parser.add_argument(f"--{flag}", action="store_true")
    given, begun = parser.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    net = Supernet(open_dataset(given.data, seed=given.seed), given)
    found: dict[str, object] = {"passes": round(net.taught(), 2)}
    found["largest"] = net.score(net.model(net.nest.largest))
    ranked = net.ranked()
    found |= {"candidates": len(ranked), "sliced": [round(score, 4) for score, _ in ranked[:3]]}
    found["best"] = ranked[0][1].params
    score, model = net.tuned(ranked)
    file = net.shipped(model)
    found |= {"validation": score, "size_bytes": len(file), "macs": model.arch.graph.macs}
    if not given.blind:
        test = net.part("test")
        answers = onnx_probabilities(file, test.pixels).argmax(1)
        found["int8_accuracy"] = float((answers == test.labels.numpy()).mean())
    found["seconds"] = round(time.monotonic() - begun, 1)
    found["processor_seconds"] = round(time.process_time(), 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
