"""Captured against eager steps; a fake capture function stands in for CUDA's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.training import loop, precision
from lepton_automl.training import step as captured
from lepton_automl.training.loader import Batch, Loader
from lepton_automl.training.loss import Loss
from lepton_automl.training.optim import Optimizer
from lepton_automl.training.recipe import Recipe
from lepton_automl.training.step import _WARMUP_STEPS, CudaGraphStep, TrainStep
from tests.helpers.nets import random_arch, random_model, random_pixels

CPU = torch.device("cpu")

RECIPE = Recipe(batch_size=16, lr=0.02, plain_finish=0.5, mixup=0.5, augment=0.5)


def training(recipe=RECIPE, record=None, steps=None):
    """A net, its batches, and what takes its steps: plain ones, or recorded ones."""
    model = random_model(random_arch(3), 3)
    pixels = random_pixels(model.arch, 64, 3)
    data = LabelledTensors(pixels, torch.arange(64) % model.arch.classes)
    network = model.network().train()
    batches = Loader(data, model.preprocessing, recipe, 6, 0, CPU)
    optimizer = Optimizer(network.parameters(), recipe, batches.batch_size)
    step = TrainStep(network, Loss(recipe, None, 0.0, 1.0), optimizer, batches.batch_size)
    state = lambda: dict(network.state_dict()) | optimizer.state_dict()  # noqa: E731
    return network, batches, step if record is None else CudaGraphStep(step, state, record)


def repeated(count):
    """Records by keeping the function; what it gives lies where it lay first."""

    def record(work):
        result = torch.zeros(())

        def replay():
            count.append(1)
            result.copy_(work())

        return replay, result

    return record


def run(learn, batches, scale=1.0):
    return [
        float(learn(batches.micro_batches(n, 1), scale * (1 + n % 3))) for n in range(batches.steps)
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_replayed_steps_equal_eager_steps(optimizer, monkeypatch):
    # In bfloat16 the last digit of a rate changes what comes of it by far more.
    monkeypatch.setattr(precision, "_has_amx", lambda: False)
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    plain, batches, step = training(recipe)
    wanted = run(step, batches)
    replays = []
    network, batches, learn = training(recipe, repeated(replays))
    assert run(learn, batches) == pytest.approx(wanted, rel=1e-3)
    for given, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(given, other, rtol=1e-2, atol=1e-4)
    # Mixed batches and those of the plain finish are recorded once each, and tried once.
    assert len(replays) == batches.steps - 2 * (_WARMUP_STEPS + 1) + 2
    assert not learn.is_disabled


def broken(work):
    raise RuntimeError("operation not permitted when stream is capturing")


def idle(work):
    return (lambda: None), torch.zeros(())


def twice(work):
    return (lambda: (work(), work())), torch.zeros(())


@pytest.mark.parametrize("record", [broken, idle, twice])
def test_a_failed_or_wrong_capture_falls_back_to_eager_steps(record):
    plain, batches, step = training()
    wanted = run(step, batches)
    network, batches, learn = training(record=record)
    with pytest.warns(UserWarning, match="not replayed.*: (capture failed|its replay)"):
        given = run(learn, batches)
    assert learn.is_disabled
    assert given == wanted
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_every_step_is_given_its_own_batch_and_rate():
    seen = []

    class Told:
        def __call__(self, pieces, scale):
            (batch,) = pieces
            seen.append((float(batch.x.sum()), float(scale)))
            weight.add_(float(scale) * batch.x.mean())
            return batch.x.mean()

    weight = torch.zeros(3)
    learn = CudaGraphStep(Told(), lambda: {"weight": weight}, repeated([]))
    draws = torch.Generator().manual_seed(0)
    given = [torch.rand(4, 1, 2, 2, generator=draws) for _ in range(_WARMUP_STEPS + 4)]
    total = torch.zeros(3)
    for number, x in enumerate(given):
        labels = torch.zeros(4, dtype=torch.int64)
        loss = learn([captured.Batch(x, labels)], number + 1.0)
        assert float(loss) == float(x.mean())
        total += (number + 1.0) * x.mean()
        torch.testing.assert_close(weight, total)
    assert seen[-1] == (float(given[-1].sum()), _WARMUP_STEPS + 4.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_on_a_gpu_graphs_are_used_and_learn_as_much(optimizer, monkeypatch):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    model = random_model(random_arch(3), 3)
    pixels = random_pixels(model.arch, 256, 3)
    data, made = LabelledTensors(pixels, torch.arange(256) % model.arch.classes), []
    record = captured.capture_cuda_graph
    monkeypatch.setattr(captured, "capture_cuda_graph", lambda work: made.append(1) or record(work))
    losses = []
    for is_captured in (True, False):
        monkeypatch.setattr(captured, "_WARMUP_STEPS", 3 if is_captured else 10**9)
        fit = loop.train_loop(
            model.network(), data, model.preprocessing, recipe,
            epochs=6, seed=0, device=torch.device("cuda"),
        )  # fmt: skip
        losses.append(fit.loss)
    assert len(made) == 2
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


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
def test_a_step_equals_torchs_for_any_number_of_micro_batches(parts):
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
