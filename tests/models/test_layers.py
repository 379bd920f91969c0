from __future__ import annotations

from dataclasses import dataclass

import pytest

from lepton_automl.errors import ArchError
from lepton_automl.models.layers import Layer, activation, choice, derived, width


@dataclass(frozen=True)
class Twin(Layer):
    out: int = width(16)
    kernel: int = choice(3, 1, 5)
    activation: str = activation("silu")
    residual: bool = derived(False)

    def lower(self, build, x):
        return x


def test_a_search_space_may_set_all_but_stored_fields():
    assert list(Twin.searchable_fields()) == ["out", "kernel", "activation"]
    assert Twin.searchable_fields()["kernel"]["choices"] == (3, 1, 5)


def test_the_default_of_a_choice_is_its_first_value():
    assert Twin().activation == Twin.searchable_fields()["activation"]["choices"][0] == "silu"


@pytest.mark.parametrize("value", [-1, 4097, 8.0, "8", True])
def test_a_width_is_a_whole_number_of_channels(value):
    with pytest.raises(ArchError) as caught:
        Twin(out=value)
    assert f"Twin: out = {value!r}" in caught.value.what


@pytest.mark.parametrize(("field", "value"), [("kernel", 4), ("activation", "rleu")])
def test_an_illegal_choice_lists_the_legal_ones(field, value):
    with pytest.raises(ArchError) as caught:
        Twin(**{field: value})
    assert f"{field} = {value!r}" in caught.value.what
    assert all(repr(c) in caught.value.what for c in Twin.searchable_fields()[field]["choices"])
