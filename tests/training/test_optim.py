"""Optimizers and learning-rate schedules against those of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lepton_automl.training.optim import Optimizer, lr_schedule
from lepton_automl.training.recipe import Recipe


def theirs(optimizer, groups, lr):
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr)


@pytest.mark.parametrize(
    ("optimizer", "batch", "lr"),
    [("sgd", 64, 0.1), ("sgd", 16, 0.025), ("adamw", 64, 0.1), ("adamw", 256, 0.2)],
)
def test_steps_equal_torchs_at_the_rate_scaled_to_the_batch(optimizer, batch, lr):
    generator = torch.Generator().manual_seed(0)

    def parameters():
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 3, 3, 3), (5, 4), (4,))]

    ours, copies = parameters(), parameters()
    mine = Optimizer(ours, Recipe(optimizer=optimizer, lr=0.1, weight_decay=0.3), batch)
    groups = [
        {"params": copies[:2], "weight_decay": 0.3},
        {"params": copies[2:], "weight_decay": 0.0},
    ]
    other = theirs(optimizer, groups, lr)
    for scale in (0.5, 1.0, 0.25):
        for p, q in zip(ours, copies, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        for group in other.param_groups:
            group["lr"] = lr * scale
        mine.step(scale)
        other.step()
        assert all(p.grad is None for p in ours)
    for p, q in zip(ours, copies, strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)


def test_parameters_without_gradient_are_not_changed():
    frozen = torch.nn.Parameter(torch.ones(3, 3), requires_grad=False)
    moving = torch.nn.Parameter(torch.ones(3, 3))
    moving.grad = torch.ones(3, 3)
    Optimizer([frozen, moving], Recipe(), 64).step(1.0)
    assert torch.equal(frozen, torch.ones(3, 3))
    assert not torch.equal(moving, torch.ones(3, 3))


def test_training_does_not_load_torchs_compiler():
    code = (
        "import sys, torch; from lepton_automl.training.optim import Optimizer; "
        "from lepton_automl.training.recipe import Recipe; "
        "p = torch.nn.Parameter(torch.ones(2, 2)); "
        "p.grad = torch.ones(2, 2); Optimizer([p], Recipe(), 8).step(1.0); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["onecycle", "cosine", "trapezoid"])
@pytest.mark.parametrize("steps", [1, 2, 7, 400])
def test_a_schedule_rises_to_the_peak_and_ends_near_nothing(name, steps):
    scale = lr_schedule(name, steps)
    assert len(scale) == steps
    assert 0 < min(scale) <= max(scale) <= 1
    top = scale.index(max(scale))
    assert scale[: top + 1] == sorted(scale[: top + 1])
    assert scale[top:] == sorted(scale[top:], reverse=True)
    if steps == 400:
        assert max(scale) > 0.99
        assert scale[-1] < 0.01
