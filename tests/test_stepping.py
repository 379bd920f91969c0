from __future__ import annotations

import pytest
import torch

from lepton_automl.batches import Batch
from lepton_automl.loss import Loss
from lepton_automl.optimizers import Optimizer
from lepton_automl.recipe import Recipe
from lepton_automl.stepping import TrainStep


def linear(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))


def batch(count=8):
    draws = torch.Generator().manual_seed(1)
    return Batch(torch.randn(count, 3, 2, 2, generator=draws), torch.arange(count) % 3)


def stepper(net, recipe, whole=8):
    return TrainStep(
        net, Loss(recipe, None, 0.0, 1.0), Optimizer(net.parameters(), recipe, 64), whole
    )


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_step_is_that_of_torch_whatever_the_pieces(parts):
    recipe = Recipe(lr=0.1, weight_decay=0.0)
    ours, theirs = linear(), linear()
    x, labels = batch()[:2]
    pieces = [Batch(a, b) for a, b in zip(x.chunk(parts), labels.chunk(parts), strict=True)]
    loss = stepper(ours, recipe)(pieces, 0.5)
    other = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    wanted = torch.nn.functional.cross_entropy(theirs(x), labels)
    wanted.backward()
    other.step()
    # On processors with tiles products are made in bfloat16.
    assert float(loss) == pytest.approx(float(wanted.detach()), rel=1e-2)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_rate_on_the_device_moves_as_a_number_does(optimizer):
    recipe = Recipe(optimizer=optimizer, lr=0.1)
    nets = [linear(), linear()]
    for net, scale in zip(nets, (0.3, torch.tensor(0.3)), strict=True):
        step = stepper(net, recipe)
        for _ in range(3):
            step([batch()], scale)
    for first, second in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
