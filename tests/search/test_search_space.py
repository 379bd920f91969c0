from __future__ import annotations

import optuna
import pytest

from lepton_automl.cost import targets
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.network import build_network
from lepton_automl.search.space import draw, loader, search_space
from lepton_automl.search.space.parameters import Choice
from lepton_automl.search.space.search_space import fit_to_input, input_size
from lepton_automl.training.recipe import Recipe

STAGES = """\
[input]
resolution = "native"
[stem]
out = 8
[[stage]]
layer = "residual"
out = 16
depth = 3
stride = 2
kernel = 5
[[stage]]
layer = "max_pool"
[[stage]]
layer = "mbconv"
out = 24
expand = 3
mbconv = { se = 4 }
[head]
features = 32
[train]
lr = 0.25
"""

X86 = targets.load("x86-any")


def arch_of(found, trial, *, size=(28, 28), channels=1, classes=10, target=X86):
    return found.sample(trial, size=size, channels=channels, classes=classes, target=target)[0]


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return loader.load(path)


SPACES = {name: loader.load(name).kind for name in loader.names()}
INPUTS = {
    "signals": [((1, 16), 1), ((1, 500), 16)],
    "pictures": [((8, 8), 1), ((32, 32), 3), (None, 3)],
    "audio": [((49, 40), 1)],
}
"""Kind of data -> sizes and channels of inputs; of sound those of the front end in the space."""


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [(name, *case) for name, kind in SPACES.items() for case in INPUTS[kind]],
)
def test_fifty_samples_of_every_shipped_space_are_legal_nets(name, size, channels):
    found = loader.load(name)
    for seed in range(50):
        arch, recipe = found.sample(
            draw.RandomTrial(seed), size=size, channels=channels, classes=7, target=X86
        )
        assert arch.graph.output.channels == arch.classes == 7
        assert Arch.from_json(arch.to_json()) == arch
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert arch.is_signal == (found.kind == "signals")
        maps = [op.y for op in arch.graph.ops if max(op.y.height, op.y.width) > 1]
        sides = [y.width if arch.is_signal else min(y.height, y.width) for y in maps]
        assert min(sides) >= 4


@pytest.mark.parametrize("name", loader.names())
def test_every_shipped_space_fits_on_a_screen_and_names_good_candidates(name):
    found = loader.load(name)
    lines = found.text.splitlines()
    is_default = name == "general"  # It names the candidates of all others.
    assert len(lines) <= (85 if is_default else 65)
    assert max(map(len, lines)) <= 100
    assert found.doc
    assert 1 <= len(found.candidates) <= (6 if is_default else 3)
    for given in found.candidates:
        assert set(given) == set(found.parameters())
        trial = optuna.trial.FixedTrial(given)
        arch_of(found, trial)
        assert trial.params.items() <= given.items()


def test_an_optuna_trial_suggests_exactly_the_parameters():
    found = loader.load("tiny")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        arch_of(found, trial, size=(40, 40))
        seen |= set(trial.params)
        for path, value in trial.params.items():
            assert value in found.parameters()[path].values
    assert seen == set(found.parameters()) - {"input.resolution"}  # 32 is all that 40x40 may be


def test_equal_draws_give_equal_nets_and_recipes():
    found = loader.load("residual")
    first, second = (
        found.sample(draw.RandomTrial(3), size=(32, 32), channels=3, classes=10, target=X86)
        for _ in range(2)
    )
    assert first == second


def test_a_fixed_file_is_built_as_it_reads(tmp_path):
    arch, recipe = written(tmp_path, STAGES).sample(
        draw.RandomTrial(), size=(32, 32), channels=3, classes=4, target=X86
    )
    stem, first, second, third, pool, last, head = arch.layers
    assert (stem.out, stem.stride) == (8, 1)
    assert [layer.stride for layer in (first, second, third)] == [2, 1, 1]
    assert [layer.projection for layer in (first, second, third)] == [True, False, False]
    assert first.kernel == second.kernel == 5
    assert isinstance(pool, MaxPool)
    assert (last.out, last.hidden, last.squeeze) == (24, 48, 12)
    assert (head.features, head.classes) == (32, 4)
    assert recipe == Recipe(lr=0.25)


def test_strides_and_pools_stop_at_small_maps(tmp_path):
    arch = arch_of(written(tmp_path, STAGES), draw.RandomTrial(), size=(7, 7), channels=3)
    assert not any(isinstance(layer, MaxPool) for layer in arch.layers)
    heights = [op.y.height for op in arch.graph.ops if op.y.height > 1]
    assert heights == [7] + [4] * (len(heights) - 1)


def test_activations_slow_on_the_target_are_left_out_where_others_are_listed(tmp_path):
    text = "[all]\nactivation = ['silu', 'relu', 'relu6']\n[stem]\nout = 8\n"
    found = written(tmp_path, text)
    drawn = {arch_of(found, draw.RandomTrial(seed)).layers[0].activation for seed in range(40)}
    assert drawn == {"relu", "relu6"}
    only = written(tmp_path, text.replace(", 'relu', 'relu6'", ", 'hswish'"))
    drawn = {arch_of(only, draw.RandomTrial(seed)).layers[0].activation for seed in range(40)}
    assert drawn == {"silu", "hswish"}


@pytest.mark.parametrize(
    ("listed", "size", "expected"),
    [
        ("'native'", (28, 28), {(28, 28)}),
        ("['native', 32]", (8, 8), {(8, 8)}),
        ("['native', 32]", (64, 48), {(32, 24)}),
        ("['native', 16, 32]", (32, 32), {(32, 32), (16, 16)}),
        ("['native', 32]", None, {(32, 32)}),
        ("'native'", None, {(64, 64)}),
        ("[64, 96]", (80, 80), {(64, 64), (80, 80)}),
        ("[64, 96]", (20, 30), {(20, 30)}),
        ("{ low = 48, high = 96, step = 48 }", None, {(48, 48), (96, 96)}),
    ],
)
def test_pictures_are_never_enlarged_and_keep_their_shape(listed, size, expected, tmp_path):
    found = written(tmp_path, f"[input]\nresolution = {listed}\n")
    sizes = {arch_of(found, draw.RandomTrial(seed), size=size).input[:2] for seed in range(20)}
    assert sizes == expected


def test_a_range_of_fractions_is_sampled_on_its_steps(tmp_path):
    found = written(tmp_path, "[train]\nlr = { low = 0.1, high = 0.4, step = 0.1 }\n")
    rates = set()
    for seed in range(40):
        _, recipe = found.sample(
            draw.RandomTrial(seed), size=(8, 8), channels=1, classes=2, target=X86
        )
        rates.add(round(recipe.lr, 9))
    assert rates == {0.1, 0.2, 0.3, 0.4}


@pytest.mark.parametrize(
    ("side", "strides"),
    [
        (64, [4, 2, 2]),
        (32, [4, 2, 1]),
        (16, [4, 1, 1]),
        (8, [2, 1, 1]),
        (7, [2, 1, 1]),
        (4, [1] * 3),
    ],
)
def test_strides_give_way_from_the_end_so_that_no_map_is_under_four(side, strides):
    layers = fit_to_input(
        (side, side, 1), [Stem(8, stride=4), Conv(8, stride=2), Conv(8, stride=2)]
    )
    assert [layer.stride for layer in layers] == strides
    ops = chain((side, side, 1), [*layers, Head()], 2).graph.ops
    assert all(op.y.height >= 4 for op in ops if op.y.height > 1)


def test_pictures_smaller_than_four_stay_as_they_are():
    layers = fit_to_input((2, 3, 1), [Stem(8, stride=2), Conv(8, stride=2)])
    assert [layer.stride for layer in layers] == [1, 1]


def test_the_short_side_decides():
    assert fit_to_input((8, 64, 1), [Stem(8), Conv(8, stride=2), Conv(8, stride=2)])[2].stride == 1


def test_a_pool_that_would_go_too_far_is_left_out():
    layers = fit_to_input((9, 9, 1), [Stem(8), MaxPool(), MaxPool(), Conv(8)])
    assert [type(layer) for layer in layers] == [Stem, MaxPool, Conv]


def test_the_largest_listed_size_bounds_native():
    parameter = Choice(("native", 16, 32))
    assert input_size("native", parameter, (128, 64)) == (32, 16)
    assert input_size(16, parameter, (128, 64)) == (16, 8)
    assert input_size("native", parameter, (31, 5)) == (31, 5)
    assert input_size("native", parameter, None) == (32, 32)


def test_a_net_of_more_weights_than_can_be_trained_is_refused(tmp_path, monkeypatch):
    found = written(tmp_path, STAGES)
    arch = arch_of(found, draw.RandomTrial(0))
    weights = sum(p.numel() for p in build_network(arch).parameters() if p.ndim > 1)
    monkeypatch.setattr(search_space, "MOST_WEIGHTS", weights)
    assert arch_of(found, draw.RandomTrial(0)) == arch
    monkeypatch.setattr(search_space, "MOST_WEIGHTS", weights - 1)
    with pytest.raises(ArchError, match=f"{weights:,} weights"):
        arch_of(found, draw.RandomTrial(0))
