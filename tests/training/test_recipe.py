from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.errors import SpaceError
from lepton_automl.training.recipe import Recipe

recipes = st.builds(
    Recipe,
    optimizer=st.sampled_from(["sgd", "adamw", "muon"]),
    lr=st.floats(1e-6, 10),
    schedule=st.sampled_from(["onecycle", "cosine", "trapezoid"]),
    weight_decay=st.floats(0, 1),
    batch_size=st.integers(1, 4096),
    label_smoothing=st.floats(0, 0.999),
    augment=st.floats(0, 1),
    augment_kind=st.sampled_from(["affine", "crop"]),
    cutout=st.floats(0, 1),
    colour=st.floats(0, 1),
    mixup=st.floats(0, 1),
    cutmix=st.floats(0, 1),
    plain_finish=st.floats(0, 1),
    flip=st.booleans(),
    epochs=st.integers(1, 10_000),
)


@given(recipes)
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_of_an_older_run_means_what_it_meant():
    text = '{"optimizer":"adamw","lr":0.01,"schedule":"cosine","weight_decay":0.1,'
    text += '"batch_size":32,"label_smoothing":0.1,"augment":0.7,"flip":true,"epochs":9}'
    read = Recipe.from_json(text)
    assert (read.augment, read.augment_kind, read.cutout) == (0.7, "affine", 0.0)
    assert read.plain_finish == 0.25
    assert (read.colour, read.mixup, read.cutmix) == (0.0, 0.0, 0.0)


def test_a_setting_that_no_longer_exists_is_named_with_the_way_out():
    with pytest.raises(SpaceError) as caught:
        Recipe.from_json('{"optimizer":"adamw","average":"none"}')
    assert "average" in caught.value.what
    assert "recipe.json" in caught.value.fix


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "adma"),
        ("schedule", "poly"),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", 11),
        ("weight_decay", -1e-9),
        ("weight_decay", float("nan")),
        ("batch_size", 0),
        ("batch_size", 4097),
        ("label_smoothing", 1.0),
        ("augment", 1.01),
        ("augment_kind", "cut"),
        ("cutout", -0.1),
        ("colour", 1.01),
        ("mixup", -0.1),
        ("cutmix", 1.01),
        ("plain_finish", 1.01),
        ("epochs", 0),
    ],
)
def test_an_illegal_value_is_an_error_with_field_value_and_rule(field, value):
    with pytest.raises(SpaceError) as caught:
        Recipe(**{field: value})
    assert f"{field} = {value!r}" in caught.value.what
    assert "the rule is" in caught.value.what
    assert field in caught.value.fix


def test_the_bounds_themselves_are_legal():
    low = Recipe(weight_decay=0, batch_size=1, label_smoothing=0, augment=0, epochs=1)
    high = Recipe(lr=10, weight_decay=1, batch_size=4096, augment=1, epochs=10_000)
    assert dataclasses.replace(low) == low
    assert high.lr == 10
