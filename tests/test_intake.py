from __future__ import annotations

import pytest

from lepton_automl.intake import name_of


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("digits", "digits"),
        ("x/flowers5/train", "flowers5"),
        ("x/flowers5/", "flowers5"),
        ("/tmp/my set.v2.npz", "my-set.v2"),
        ("my.photos", "my.photos"),
        ("/", "data"),
        ("../..hidden", "hidden"),
    ],
)
def test_runs_are_called_after_the_data(data, name):
    assert name_of(data) == name
