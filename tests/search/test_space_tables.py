from __future__ import annotations

import pytest

from lepton_automl.core import plugins
from lepton_automl.cost import targets
from lepton_automl.models.layers import Layer
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import suggest_fields, suggest_layers
from lepton_automl.search.space.parameters import SpaceFile
from lepton_automl.search.space.tables import layer_checks, layer_table, train_table

X86 = targets.load()


class Walk:
    """A trial that, asked again and again, takes every path through the choices once."""

    def __init__(self, path):
        self.path, self.names, self.widths = path, [], []

    def suggest_categorical(self, name, choices):
        if name in self.names:
            return choices[self.path[self.names.index(name)]]
        place = len(self.names)
        self.names.append(name)
        self.widths.append(len(choices))
        self.path += [0] * (place + 1 - len(self.path))
        return choices[self.path[place]]

    def suggest_int(self, name, low, high, *, step):
        return self.suggest_categorical(name, range(low, high + 1, step))

    def following(self):
        path = self.path[: len(self.names)]
        while path and path[-1] + 1 == self.widths[len(path) - 1]:
            path.pop()
        return [*path[:-1], path[-1] + 1] if path else None


def ways(ask):
    """How many ways through its choices `ask` has."""
    path, count = [], 0
    while path is not None:
        trial = Walk(path)
        ask(trial)
        count, path = count + 1, trial.following()
    return count


@pytest.mark.parametrize(
    "text",
    [
        "layer = 'conv'\nout = 8",
        "layer = ['conv', 'max_pool']\nout = [8, 16, 24]\ndepth = [0, 1, 3]\nkernel = 3",
        "layer = ['mbconv', 'fused_mbconv']\nexpand = [1, 2]\nmbconv = { se = [0, 4] }",
        "layer = ['conv', 'mbconv']\nout = { low = 8, high = 40, step = 8 }\nmbconv.out = 8\n"
        "depth = { low = 1, high = 2 }",
    ],
)
def test_the_points_of_a_stage_are_the_ways_through_it(text):
    file = SpaceFile("f.toml", "[[stage]]\n" + text)
    table = layer_table(file, ("stage", 0), "stage1")
    assert table.points == ways(lambda trial: suggest_layers(table, trial, X86))


@pytest.mark.parametrize("name", loader.names())
def test_the_points_of_a_shipped_training_are_the_ways_through_it(name):
    table = loader.load(name).train
    assert table.points == ways(lambda trial: suggest_fields(table, trial, X86))


@pytest.mark.parametrize("name", plugins.names("layers"))
def test_derived_fields_cannot_be_set_in_files(name):
    kind = plugins.load("layers", name, Layer)
    assert not {"hidden", "squeeze", "residual", "projection", "classes"} & set(layer_checks(kind))
    assert set(layer_checks(kind)) <= set(kind.searchable_fields())


def test_a_field_of_one_layer_overrides_that_of_the_stage():
    text = "[[stage]]\nlayer = ['conv', 'mbconv']\nkernel = 5\nmbconv.kernel = 7"
    fields = layer_table(SpaceFile("f.toml", text), ("stage", 0), "stage1").fields
    assert fields["conv"]["kernel"][1].values == (5,)
    assert fields["mbconv"]["kernel"][1].values == (7,)


def test_whole_numbers_are_taken_for_fractions():
    table = train_table(SpaceFile("f.toml", "[train]\nlr = 1\nlabel_smoothing = [0, 0.1]"))
    parameters = dict(table.fields["sgd"].values())
    assert [type(v) for v in parameters["train.label_smoothing"].values] == [float, float]
    assert type(parameters["train.lr"].values[0]) is float
