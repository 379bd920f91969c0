"""Check values from outside against annotations: fields of dataclasses from JSON, options."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

MOST = 1e18
"""Largest number of `check_finite`."""


def check_types(value: Any, what: str = "") -> None:
    """Check the fields of a dataclass instance, and of all in it, against their annotations.

    A number may be whole or not where one of both is annotated; a boolean is not a number.

    Parameters
    ----------
    value : dataclass instance
        Its annotations may be numbers, `str`, `bool`, `None`, `Literal`, unions, tuples, mappings
        and further dataclasses.
    what : str
        Name of the value in the message.

    Raises
    ------
    TypeError
        Naming the first field of another type.
    """
    hints = _hints(value.__class__)
    for item in dataclasses.fields(value):
        name = f"{what}.{item.name}" if what else item.name
        check_type(getattr(value, item.name), hints[item.name], name)


def check_type(value: Any, hint: Any, what: str) -> None:
    """Check a value against an annotation of those that `check_types` knows, or `Sequence`.

    Raises
    ------
    TypeError
        Naming the value by `what`, or the part of it that has another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        _check_union(value, arguments, what)
    elif origin is typing.Literal:
        _require(isinstance(value, str) and value in arguments, value, arguments, what)
    elif origin in (tuple, Sequence, Mapping):
        _check_collection(value, hint, what)
    elif hint in (int, float):
        _require(isinstance(value, int | float) and not isinstance(value, bool), value, hint, what)
    else:
        _require(isinstance(value, hint), value, hint, what)
        if dataclasses.is_dataclass(value):
            check_types(value, what)


def check_finite(value: object, what: str, kind: type = float) -> None:
    """Check that a value is a finite number; with `kind` int, that it is a whole one.

    Raises
    ------
    TypeError
        Naming the value.
    """
    numbers = int if kind is int else int | float
    is_number = isinstance(value, numbers) and not isinstance(value, bool)
    if not is_number or not abs(typing.cast("float", value)) <= MOST:
        raise TypeError(f"{what} is {value!r:.60}, not a number")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check_collection(value: Any, hint: Any, what: str) -> None:
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        _check_tuple(value, hint, what)
        return
    is_right = isinstance(value, origin) and not isinstance(value, str)
    _require(is_right, value, hint, what)
    each = value.items() if origin is Mapping else enumerate(value)
    for key, one in each:
        check_type(one, kinds[-1], f"{what}[{key!r}]")


def _check_tuple(value: Any, hint: Any, what: str) -> None:
    _require(isinstance(value, tuple), value, hint, what)
    kinds = typing.get_args(hint)
    kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    _require(len(kinds) == len(value), value, hint, what)
    for place, (each, kind) in enumerate(zip(value, kinds, strict=True)):
        check_type(each, kind, f"{what}[{place}]")


def _check_union(value: Any, kinds: tuple[Any, ...], what: str) -> None:
    errors = []
    for kind in kinds:
        try:
            check_type(value, kind, what)
        except TypeError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def _require(is_right: bool, value: Any, hint: Any, what: str) -> None:
    if not is_right:
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise TypeError(f"{what} is {value!r:.60}, not {wanted}")


def with_tuples(body: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass from a JSON object, which has lists where they have tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in body.items()}
