"""Muon against a singular value decomposition, and against torch's own where it has one."""

from __future__ import annotations

import pytest
import torch

from lepton_automl.training import muon


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [(8, 27), (40, 9), (16, 16), (64, 576), (33, 70), (10, 128), (1, 5)]


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_every_direction_becomes_about_equally_long_and_none_turns(number):
    matrices = [drawn(*shape, seed=place) for place, shape in enumerate(SHAPES)]
    left, _, right = torch.linalg.svd(matrices[number], full_matrices=False)
    inside = left.mT @ muon.orthogonalize(matrices)[number] @ right.mT
    singular = inside.diagonal()
    assert singular.min() > 0.5
    assert singular.max() < 1.3
    assert (inside - torch.diag(singular)).abs().max() < 1e-3


def newton_schulz(x):
    """The oracle: the iteration as it is published, on X itself, in float64."""
    a, b, c = muon._NEWTON_SCHULZ_COEFFICIENTS
    x = x.double() / (x.double().norm() + 1e-7)
    for _ in range(muon._NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.float()


@pytest.mark.parametrize("kind", ["random", "of rank 3", "over five orders"])
def test_steps_on_gram_matrices_equal_steps_on_the_matrix(kind):
    x = drawn(48, 288)
    if kind == "of rank 3":
        x = drawn(48, 3, seed=1) @ drawn(3, 288, seed=2) + 1e-6 * x
    if kind == "over five orders":
        left, _, right = torch.linalg.svd(x, full_matrices=False)
        x = left @ torch.diag(torch.logspace(0, -5, 48)) @ right
    wanted, (given,) = newton_schulz(x), muon.orthogonalize([x])
    assert (given - wanted).norm() < 2e-3 * wanted.norm()


def test_no_gradient_is_no_move():
    (given,) = muon.orthogonalize([torch.zeros(8, 20)])
    assert torch.equal(given, torch.zeros(8, 20))


def test_only_weights_that_mix_channels_are_matrices():
    assert muon.is_matrix(drawn(8, 4, 3, 3))
    assert muon.is_matrix(drawn(10, 64))
    assert not muon.is_matrix(drawn(8, 1, 3, 3))
    assert not muon.is_matrix(drawn(8))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_it_follows_torchs_own():
    ours, theirs = (
        [drawn(12, 30, seed=1), drawn(30, 12, seed=2), drawn(12, 30, seed=3)] for _ in "ab"
    )
    optimizer = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, momentum=muon._MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    momenta = [torch.zeros_like(w) for w in ours]
    for number in range(5):
        gradients = [drawn(*w.shape, seed=10 * number + place) for place, w in enumerate(ours)]
        for weight, gradient in zip(theirs, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        muon.muon_update(ours, gradients, momenta, lr=0.02, weight_decay=0.1)
    for mine, other in zip(ours, theirs, strict=True):
        # torch computes in bfloat16: each step's direction is known to about a hundredth.
        assert (mine - other).norm() < 0.02 * (mine - drawn(*mine.shape, seed=1)).norm()


def test_a_convolution_moves_as_the_matrix_it_is_whatever_its_memory_looks_like():
    flat, gradient = drawn(8, 36), drawn(8, 36, seed=1)
    conv = flat.reshape(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    for weight, slope in ((flat, gradient), (conv, gradient.reshape(8, 4, 3, 3))):
        muon.muon_update([weight], [slope], [torch.zeros_like(weight)], lr=0.1, weight_decay=0.0)
    assert torch.allclose(conv.reshape(8, 36), flat, atol=1e-6)
