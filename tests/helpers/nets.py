"""Random architectures over every layer plug-in, and models with lively weights, for tests."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lepton_automl.core import plugins
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.model import Model
from lepton_automl.models.network import build_network, extract_weights
from lepton_automl.models.quantization import (
    InputQuantization,
    Preprocessing,
    has_input_quantization,
)

WIDTHS = (4, 5, 8, 12, 16)


def random_arch(
    seed: int,
    *,
    input: tuple[int, ...] = (16, 16, 3),
    classes: int = 5,
    activations: tuple[str, ...] = ("relu",),
    layers: tuple[str, ...] = (),
) -> Arch:
    """A legal net: stem, one to four layers of any type (or of the types named), head."""
    rng = random.Random(seed)
    names = layers or tuple(n for n in plugins.names("layers") if n not in {"stem", "head"})
    middle: list[Layer] = []
    for _ in range(rng.randint(1, 4)):
        kind = plugins.load("layers", rng.choice(names), Layer)  # type: ignore[type-abstract]
        middle.append(_random_layer(kind, rng, activations))
    stem = _random_layer(Stem, rng, activations)
    head = _random_layer(Head, rng, activations)
    while True:
        try:
            arch = chain(input, [stem, *middle, head], classes)
            assert arch.graph.ops
        except ArchError:
            middle.pop()
        else:
            return arch


def random_model(arch: Arch, seed: int = 0) -> Model:
    """A model whose batch-norm statistics fit its values and whose scales are far from one."""
    generator = torch.Generator().manual_seed(seed)
    preprocessing = Preprocessing(
        zero_point=int(torch.randint(60, 180, (), generator=generator)),
        scale=1 / 64,
        input_quantization=random_input_quantization(arch, seed)
        if has_input_quantization(arch)
        else None,
    )
    network = build_network(arch, seed=seed)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(-0.5, 0.5, generator=generator)
    with torch.no_grad():
        network.train()(preprocessing.apply(random_pixels(arch, 16, seed)))
        for norm in norms:
            noise = torch.rand(norm.num_features, generator=generator)
            norm.running_var.mul_(0.7 + 0.6 * noise).add_(1e-3)
            norm.running_mean.add_(0.2 * (noise - 0.5) * norm.running_var.sqrt())
    return Model(arch, extract_weights(network), preprocessing)


def random_input_quantization(arch: Arch, seed: int = 0) -> InputQuantization:
    """Offsets and steps that differ by channel, as those of sensors do; of integers every other."""
    rng = random.Random(seed)
    if seed % 2:
        step, middle, kind = (90, 0, "int16") if arch.is_signal else (200, 30000, "uint16")
        offsets = (middle + rng.uniform(-50, 50) for _ in range(arch.channels))
        scales = (step * rng.uniform(0.3, 1) for _ in range(arch.channels))
        return InputQuantization(tuple(offsets), tuple(scales), kind)
    if not arch.is_signal:  # Every channel has a range of its own in 0 to 255.
        levels = [rng.uniform(30, 220) for _ in range(arch.channels)]
        steps = (min(level, 255 - level) / 127 for level in levels)
        return InputQuantization(tuple(levels), tuple(steps), "uint8")
    offsets = (rng.uniform(-20, 20) for _ in range(arch.channels))
    scales = (10 ** rng.uniform(-3, 1) for _ in range(arch.channels))
    return InputQuantization(tuple(offsets), tuple(scales))


def random_samples(arch: Arch, n: int, seed: int = 0) -> NDArray[Any]:
    """What the file of `random_int8_onnx` reads: uint8 pixels, or a float32 signal (n, T, C)."""
    if not arch.is_signal:
        return random_pixels(arch, n, seed).numpy()
    values = np.random.default_rng(seed).normal(0, 1.5, (n, *arch.input)).astype(np.float32)
    values[0] *= 1e6  # Far outside of what 8-bit samples hold.
    return values


def random_pixels(arch: Arch, n: int, seed: int = 0) -> torch.Tensor:
    """uint8 pixels (n, H, W, C): smooth blobs with noise, so that pictures differ in content."""
    generator = torch.Generator().manual_seed(seed + 1000)
    (height, width), channels = arch.size, arch.channels
    coarse = torch.rand((n, channels, 4, 4), generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.rand((n, channels, height, width), generator=generator)
    return ((0.75 * smooth + 0.25 * noise) * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def _random_layer(kind: type[Layer], rng: random.Random, activations: tuple[str, ...]) -> Layer:
    values: dict[str, Any] = {}
    for name, about in kind.searchable_fields().items():
        if name == "activation":
            values[name] = rng.choice(activations)
        elif about["kind"] == "choice":
            values[name] = rng.choice(about["choices"])
        else:
            values[name] = rng.choice((0, *WIDTHS) if kind is Head else WIDTHS)
    return kind(**values)
