from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.errors import SpaceError
from lepton_automl.search.space.parameters import Choice, Range, SpaceFile, line_numbers

TEXT = """\
doc = "x"

[stem]   # comment
out = 8
[[stage]]
layer = "conv"
[stage.conv]
kernel = 3
[[stage]]
a.b = 1
"c" = 2
"""


def test_every_key_has_the_number_of_its_line():
    lines = line_numbers(TEXT)
    assert lines[("doc",)] == 1
    assert lines[("stem",)] == 3
    assert lines[("stem", "out")] == 4
    assert lines[("stage", 0)] == 5
    assert lines[("stage", 0, "conv")] == 7
    assert lines[("stage", 0, "conv", "kernel")] == 8
    assert lines[("stage", 1)] == 9
    assert lines[("stage", 1, "a", "b")] == 10
    assert lines[("stage", 1, "c")] == 11


def test_an_error_without_a_line_of_its_own_names_that_of_its_table():
    file = SpaceFile("f.toml", TEXT)
    assert "f.toml, line 8:" in file.error(("stage", 0, "conv", "kernel", "x"), "", fix="").what
    assert "f.toml, line 1:" in file.error(("nothing",), "", fix="").what


@given(st.integers(-50, 50), st.integers(1, 9), st.integers(0, 40))
def test_a_range_has_all_its_steps_and_both_ends(low, step, count):
    high = low + step * count
    assert Range(low, high, step).values == tuple(range(low, high + 1, step))


def test_the_three_forms_of_a_value_become_knobs():
    file = SpaceFile("f.toml", "")
    assert file.parameter(("x",), 3) == Choice((3,))
    assert file.parameter(("x",), ["a", "b"]) == Choice(("a", "b"))
    assert file.parameter(("x",), {"low": 1, "high": 3}) == Range(1, 3, 1)


@pytest.mark.parametrize(
    "value",
    [[], [[1]], [{}], {}, {"low": 1}, {"low": 3, "high": 1}, {"low": 0, "high": 1, "step": 0},
     {"low": 0, "high": 1, "step": -1}, {"low": "a", "high": 1}, {"low": 0, "high": 10**9},
     {"low": True, "high": 2}],
)  # fmt: skip
def test_other_forms_are_refused(value):
    with pytest.raises(SpaceError):
        SpaceFile("f.toml", "").parameter(("x",), value)
