"""Training against a plain loop, and with fewer samples than a batch."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.network import build_network, extract_weights
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.training import loop, precision
from lepton_automl.training.evaluate import is_correct, predict_logits
from lepton_automl.training.recipe import Recipe

CPU = torch.device("cpu")
LEARNED = 0.6
"""Share of right answers; a guess has 1/3. Of 12 seeds every training below reaches 0.9."""
SEEN = Preprocessing(zero_point=100, scale=0.0125)
PLAIN = Recipe(augment=0.0, lr=0.05, batch_size=16)


def stripes(count=64, classes=3, seed=0, channels=1):
    """Noise under rows, columns or checks, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 120, (count, 8, 8, channels), generator=generator)
    rows = torch.arange(8)[:, None] % 2 * torch.ones(8, dtype=torch.int64)
    looks = torch.stack([rows, rows.T, (rows + rows.T) % 2, rows * 0])
    labels = torch.arange(count) % classes
    return LabelledTensors((noise + 100 * looks[labels][..., None]).to(torch.uint8), labels)


def small(classes=3, channels=1):
    return chain((8, 8, channels), [Stem(out=8), Conv(out=8, stride=2), Head()], classes)


def fresh(seed=0, classes=3, channels=1):
    return loop.initial_model(small(classes, channels), SEEN, seed)


def test_an_initial_model_depends_only_on_its_seed():
    assert fresh(1).digest == fresh(1).digest != fresh(2).digest
    assert fresh(1).preprocessing == SEEN


def test_equal_arguments_give_equal_bits_and_other_seeds_do_not():
    recipe = dataclasses.replace(PLAIN, augment=1.0, flip=True)
    runs = [loop.fit(fresh(), stripes(), recipe, epochs=2, seed=s, device=CPU) for s in (5, 5, 6)]
    assert runs[0].digest == runs[1].digest != runs[2].digest


def test_fit_leaves_its_argument_and_the_global_draws_alone():
    model, data = fresh(), stripes()
    before, state = model.digest, torch.get_rng_state()
    trained = loop.fit(model, data, PLAIN, epochs=1, seed=0, device=CPU)
    assert model.digest == before == trained.parent
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("has_tiles", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_reaches_a_high_accuracy_on_separable_data(optimizer, has_tiles, monkeypatch):
    monkeypatch.setattr(precision, "_has_amx", lambda: has_tiles)
    lr = 0.05 if optimizer == "sgd" else 0.01
    recipe = Recipe(optimizer=optimizer, lr=lr, augment=0.0, batch_size=16)
    trained = loop.fit(fresh(), stripes(96), recipe, epochs=10, seed=0, device=CPU)
    assert is_correct(trained, stripes(60, seed=9)).mean() > LEARNED


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_whole_batches_follow_torchs_plain_loop(optimizer):
    data = stripes(12)
    recipe = Recipe(
        optimizer=optimizer, lr=0.03, batch_size=64, augment=0.0, weight_decay=0.1,
        label_smoothing=0.1, schedule="cosine",
    )  # fmt: skip
    trained = loop.fit(fresh(), data, recipe, epochs=4, seed=0, device=CPU)

    network = build_network(small(), fresh().weights).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    if optimizer == "sgd":
        plain = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
        peak = 0.03 * 12 / 64
    else:
        plain = torch.optim.AdamW(groups, lr=1.0)
        peak = 0.03 * math.sqrt(12 / 64)
    x = (data.pixels.permute(0, 3, 1, 2).float() - 100) * 0.0125
    for scale in loop.lr_schedule("cosine", 4):
        for group in plain.param_groups:
            group["lr"] = peak * scale
        plain.zero_grad()
        F.cross_entropy(network(x), data.labels, label_smoothing=0.1).backward()
        plain.step()
    for name, wanted in network.state_dict().items():
        if "num_batches" not in name and "running" not in name:
            given = trained.weights[name.removeprefix("modules_by_op.")]
            torch.testing.assert_close(given, wanted, atol=2e-4, rtol=2e-3)


def test_a_trained_net_knows_the_mean_and_variance_of_its_values_over_the_training_pictures():
    data = stripes(300)
    recipe = dataclasses.replace(PLAIN, augment=1.0)
    trained = loop.fit(fresh(), data, recipe, epochs=1, seed=0, device=CPU)
    network, sums = build_network(small(), trained.weights).eval(), []
    network.modules_by_op["0/conv"].norm.register_forward_hook(
        lambda *seen: sums.append(seen[1][0])
    )
    with torch.no_grad():
        network(SEEN.apply(data.pixels))
    values = sums[0].transpose(0, 1).flatten(1)
    mean, variance = (trained.weights[f"0/conv.norm.running_{n}"] for n in ("mean", "var"))
    torch.testing.assert_close(mean, values.mean(1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(variance, values.var(1), atol=1e-3, rtol=0.02)


@pytest.mark.parametrize(("samples", "batch"), [(1, 16), (17, 16), (5, 64), (16, 1), (3, 2)])
def test_every_number_of_samples_fills_its_batches(samples, batch):
    recipe = dataclasses.replace(PLAIN, batch_size=batch, augment=1.0)
    sizes = []

    class Probe(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = build_network(small(), fresh().weights)

        def forward(self, x):
            sizes.append(len(x))
            return self.network(x)

    data = stripes(samples)
    done = loop.train_loop(Probe(), data, SEEN, recipe, epochs=3, seed=0, device=CPU)
    assert done.steps == len(sizes)
    assert min(sizes) == max(sizes) >= 2
    assert 3 * samples <= sum(sizes) < 3 * samples + sizes[0]
    assert math.isfinite(done.loss)


@pytest.mark.parametrize("samples", [1, 2, 17])
def test_the_fewest_pictures_train_down_to_a_map_of_one_pixel(samples):
    arch = chain((4, 4, 1), [Stem(out=8, stride=2), Conv(out=8, stride=2), Head(features=8)], 3)
    model = loop.initial_model(arch, SEEN, 0)
    data = stripes(samples)
    data = LabelledTensors(data.pixels[:, :4, :4], data.labels)
    trained = loop.fit(model, data, Recipe(), epochs=1, seed=0, device=CPU)
    assert all(torch.isfinite(w).all() for w in trained.weights.values())


def test_a_class_without_a_picture_is_never_predicted_for_sure():
    model = loop.fit(fresh(classes=4), stripes(classes=3), PLAIN, epochs=15, seed=0, device=CPU)
    assert predict_logits(model, stripes().pixels).softmax(1)[:, 3].mean() < 0.25


def test_colour_pictures_are_trained_alike():
    model = loop.fit(fresh(channels=3), stripes(channels=3), PLAIN, epochs=15, seed=0, device=CPU)
    assert is_correct(model, stripes(channels=3)).mean() > LEARNED


def test_a_loss_that_is_not_finite_is_an_error_with_a_way_out():
    model = fresh()
    broken = {name: torch.full_like(w, math.nan) for name, w in model.weights.items()}
    with pytest.raises(loop.Diverged, match="the loss became nan") as error:
        loop.fit(dataclasses.replace(model, weights=broken), stripes(), PLAIN, epochs=1, seed=0)
    assert "lr" in error.value.fix


def test_every_batch_enters_the_training_slot_and_calls_on_batch():
    open_turns, told = [], []

    @contextlib.contextmanager
    def turn():
        open_turns.append(True)
        yield
        open_turns[-1] = False

    def tick(done, total):
        assert open_turns[-1] is False
        told.append((done, total))

    loop.fit(fresh(), stripes(40), PLAIN, epochs=2, seed=0, training_slot=turn, on_batch=tick)
    assert told == [(n, 5) for n in range(1, 6)]
    assert len(open_turns) == 5 + 1  # the last one for batch normalisation


def test_forward_replaces_the_network():
    network = build_network(small(), fresh().weights)
    calls = []

    def forward(x):
        calls.append(x.shape)
        return network(x, lambda name, value: value)

    loop.train_loop(network, stripes(32), SEEN, PLAIN, epochs=1, seed=0, forward=forward)
    assert calls == [(16, 1, 8, 8)] * 2
    assert not network.training


def test_a_folded_model_trains_without_batch_normalisation():
    arch = small()
    weights = {}
    for op in arch.graph.weighted_ops:
        generator = torch.Generator().manual_seed(len(weights))
        weights[f"{op.name}.weight"] = 0.2 * torch.randn(op.weight_shape, generator=generator)
        weights[f"{op.name}.bias"] = torch.zeros(op.weight_shape[0])
    folded = dataclasses.replace(fresh(), weights=weights)
    trained = loop.fit(folded, stripes(96), PLAIN, epochs=24, seed=0)
    assert trained.is_folded
    assert is_correct(trained, stripes()).mean() > LEARNED


def test_several_teachers_are_averaged_over_logits():
    one, other = (loop.fit(fresh(n), stripes(96), PLAIN, epochs=2, seed=n) for n in (1, 2))
    first, second = one.network(), other.network()
    network = build_network(fresh(7).arch, fresh(7).weights)
    loop.train_loop(
        network,
        stripes(),
        SEEN,
        PLAIN,
        epochs=2,
        seed=3,
        teacher=lambda x: (first(x) + second(x)) / 2,
    )
    loop.recalibrate_batchnorm(network, stripes(), SEEN, seed=3, device=CPU)
    taught = loop.fit(fresh(7), stripes(), PLAIN, epochs=2, seed=3, teachers=[one, other])
    wanted = extract_weights(network)
    assert all(torch.allclose(taught.weights[k], wanted[k], atol=1e-5) for k in wanted)
    alone = loop.fit(fresh(7), stripes(), PLAIN, epochs=2, seed=3, teachers=[one])
    assert alone.digest != taught.digest


def test_a_student_follows_the_teacher_against_wrong_labels():
    data = stripes(96)
    teacher = loop.fit(fresh(), data, PLAIN, epochs=8, seed=0)
    wrong = LabelledTensors(data.pixels, (data.labels + 1) % 3)
    student = loop.fit(
        fresh(7), wrong, PLAIN, epochs=20, seed=1, teachers=[teacher], distill_weight=0.95
    )
    assert is_correct(student, stripes(60, seed=9)).mean() > LEARNED


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("parts", [2, 3, 5, 100])
def test_micro_batches_give_the_same_steps_without_batch_norm(optimizer, parts):
    recipe = dataclasses.replace(PLAIN, optimizer=optimizer, augment=1.0, label_smoothing=0.1)
    teacher = fresh(7).network()

    def trained(parts):
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(216, 3)
        )
        loop.train_loop(
            net,
            stripes(),
            SEEN,
            recipe,
            epochs=3,
            seed=1,
            device=CPU,
            teacher=teacher,
            micro_batches=parts,
        )
        return net.state_dict()

    whole, pieces = trained(1), trained(parts)
    for name, tensor in whole.items():
        assert torch.allclose(tensor, pieces[name], atol=2e-5), name


def test_micro_batches_train_a_net_with_batch_norm():
    data = stripes(128)
    model = loop.fit(fresh(), data, PLAIN, epochs=12, seed=0, device=CPU, micro_batches=4)
    assert is_correct(model, data).mean() > LEARNED
