from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from lepton_automl.core.field_types import check_types


@dataclass(frozen=True)
class Inner:
    share: float
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    is_on: bool
    pair: tuple[float, float]
    names: tuple[str, ...]
    inner: Inner | None
    by_name: Mapping[str, Inner]


RIGHT = ("x", 1, True, (1, 2.0), ("a", "b"), Inner(1), {"c": Inner(0.5, "b")})


@pytest.mark.parametrize("inner", [None, Inner(0.5)])
def test_fields_of_their_types_pass(inner):
    check_types(Outer(*RIGHT[:5], inner, RIGHT[6]))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, 3, "name is 3, not str"),
        (0, None, "name is None"),
        (1, True, "count is True, not int"),
        (1, "1", "count"),
        (2, 1, "is_on"),
        (3, (1,), "pair"),
        (3, [1, 2], "pair"),
        (3, (1, "2"), r"pair\[1\]"),
        (4, ("a", 3), r"names\[1\]"),
        (4, "ab", "names"),
        (5, {}, "inner"),
        (5, Inner("x"), "inner.share"),
        (6, {"c": Inner(0.5, "z")}, r"by_name\['c'\].kind"),
        (6, [], "by_name"),
    ],
)
def test_the_first_field_of_another_type_is_named(place, value, said):
    values = [*RIGHT[:place], value, *RIGHT[place + 1 :]]
    with pytest.raises(TypeError, match=said):
        check_types(Outer(*values))
