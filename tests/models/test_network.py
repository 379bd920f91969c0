from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_automl.models.graph import ACTIVATIONS
from lepton_automl.models.network import apply_clamp, build_network, extract_weights
from tests.helpers.nets import random_arch, random_model

seeds = st.integers(0, 10_000)


def pixels(arch, n=2, seed=0):
    height, width, channels = arch.input
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, channels, height, width), generator=generator)


@given(seeds)
@settings(max_examples=20)
def test_every_value_has_the_shape_that_the_graph_says(seed):
    arch = random_arch(seed, activations=ACTIVATIONS)
    shapes = {}

    def keep(name, value):
        shapes[name] = tuple(value.shape[1:])
        return value

    logits = build_network(arch).eval()(pixels(arch), keep)
    said = {op.y.name: (op.y.channels, op.y.height, op.y.width) for op in arch.graph.ops}
    said[arch.graph.output.name] = (arch.classes,)
    assert shapes == said
    assert logits.shape == (2, arch.classes)


@given(seeds)
@settings(max_examples=20)
def test_a_network_rebuilt_from_its_weights_computes_the_same(seed):
    model = random_model(random_arch(seed), seed)
    x = pixels(model.arch)
    copy = build_network(model.arch, extract_weights(model.network())).eval()
    assert torch.equal(copy(x), model.network()(x))


def test_the_seed_decides_the_first_weights_and_leaves_torchs_generator_alone():
    arch = random_arch(3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (extract_weights(build_network(arch, seed=s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_weights_are_copies_named_after_their_operation():
    arch = random_arch(0)
    network = build_network(arch)
    weights = extract_weights(network)
    expected = set()
    for op in arch.graph.weighted_ops:
        parts = ("bias",) if op.name.endswith("logits") else ("weight", "bias")
        norms = () if parts == ("bias",) else (*parts, "running_mean", "running_var")
        expected |= {f"{op.name}.weight"} | {f"{op.name}.norm.{p}" for p in norms}
        expected |= {f"{op.name}.bias"} if parts == ("bias",) else set()
    assert set(weights) == expected
    before = {name: tensor.clone() for name, tensor in weights.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], weights[name]) for name in weights)


def test_a_folded_network_owns_biases_and_no_normalisation():
    model = random_model(random_arch(2))
    folded = {k: v for k, v in model.weights.items() if ".norm." not in k}
    folded |= {f"{op.name}.bias": torch.ones(op.y.channels) for op in model.arch.graph.weighted_ops}
    network = build_network(model.arch, folded).eval()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert set(extract_weights(network)) == set(folded)
    op = model.arch.graph.ops[0]
    seen = {}
    x = pixels(model.arch)
    network(x, lambda name, value: seen.setdefault(name, value))
    weight = folded[f"{op.name}.weight"]
    by_hand = torch.conv2d(x, weight, torch.ones(len(weight)), op.stride, op.kernel // 2).relu()
    assert torch.allclose(seen[op.y.name], by_hand, atol=1e-5)


def test_missing_weights_are_an_error_and_not_left_random():
    model = random_model(random_arch(2))
    weights = dict(model.weights)
    del weights[next(name for name in weights if name.endswith("norm.weight"))]
    with pytest.raises(RuntimeError, match="Missing key"):
        build_network(model.arch, weights)


def test_a_value_hook_may_replace_a_value():
    arch = random_arch(4)
    network = build_network(arch).eval()
    logits = network(pixels(arch), lambda name, value: torch.zeros_like(value))
    assert torch.equal(logits, torch.zeros(2, arch.classes))


def test_clamps():
    x = torch.tensor([-1.0, 0.5, 7.0])
    assert apply_clamp(x, "none").tolist() == [-1.0, 0.5, 7.0]
    assert apply_clamp(x, "relu").tolist() == [0.0, 0.5, 7.0]
    assert apply_clamp(x, "relu6").tolist() == [0.0, 0.5, 6.0]
