"""Parse search spaces and sweeps: TOML values become parameters; errors name their line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from lepton_automl.core import plugins, untrusted_files
from lepton_automl.errors import ConfigError, SpaceError

_MOST_VALUES = 50_000
"""Of all choices and ranges of a file together."""
Scalar: TypeAlias = int | float | str | bool
Keys: TypeAlias = tuple[str | int, ...]
"""Path of a value, such as ("stage", 1, "mbconv", "expand")."""


@dataclass(frozen=True)
class Choice:
    """A categorical parameter; fixed with a single value."""

    values: tuple[Scalar, ...]

    def __str__(self) -> str:
        return " | ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """A numeric parameter: `low`, `low + step`, ... up to and including `high`."""

    low: int | float
    high: int | float
    step: int | float

    @property
    def count(self) -> int:
        """How many values there are."""
        return round((self.high - self.low) / self.step) + 1

    @property
    def values(self) -> tuple[Scalar, ...]:
        """All values, ascending."""
        return tuple(self.low + number * self.step for number in range(self.count))

    def __str__(self) -> str:
        return f"{self.low} to {self.high} by {self.step}"


Parameter: TypeAlias = Choice | Range


class SpaceFile:
    """A parsed search-space file; makes errors that name a line in it.

    Parameters
    ----------
    label : str
        Name of the file in messages.
    text : str
        Its content.
    error_type : type of ConfigError
        Class of the errors, for files of the same form that hold no search space.

    Raises
    ------
    SpaceError
        If the text is not TOML; the message names the line.
    """

    def __init__(self, label: str, text: str, error_type: type[ConfigError] = SpaceError) -> None:
        self.label, self.text, self._error_type = label, text, error_type
        self._values = 0
        self.document = untrusted_files.parse_toml(
            text, label, fix="correct the TOML on that line", error=error_type
        )
        self._lines = line_numbers(text)

    def error(self, keys: Keys, what: str, fix: str) -> ConfigError:
        """The error for the value at `keys`."""
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return self._error_type(f"{self.label}, line {self._lines.get(keys, 1)}: {what}", fix=fix)

    def unknown(
        self, keys: Keys, known: Sequence[str], kind: str, name: str | None = None
    ) -> ConfigError:
        """The error for an unknown `name` (or last of `keys`), with the nearest known one."""
        hint = plugins.unknown_name(name or str(keys[-1]), list(known), kind)
        return self.error(keys, hint.what, hint.fix)

    def check_names(
        self, keys: Keys, table: Mapping[str, Any], known: Sequence[str], kind: str
    ) -> None:
        """Raise an error if a table has an unknown key."""
        for name in table:
            if name not in known:
                raise self.unknown((*keys, name), known, kind)

    def table(self, *keys: str | int) -> dict[str, Any]:
        """The table at `keys`; an absent one is empty."""
        found: Any = self.document
        for key in keys:
            found = found[key] if isinstance(key, int) else found.get(key, {})
        if not isinstance(found, dict):
            raise self.error(keys, f"{keys[0]} is not a table", f"begin it with [{keys[0]}]")
        return dict(found)

    def count(self, name: str) -> int:
        """Number of `[[name]]` tables."""
        found = self.document.get(name, [])
        if not isinstance(found, list):
            raise self.error((name,), f"[{name}] is one table", f"begin each with [[{name}]]")
        return len(found)

    def parameter(self, keys: Keys, value: Any) -> Parameter:
        """Convert a scalar, a list or `{ low, high, step }` to a parameter."""
        if isinstance(value, dict):
            made = self._range(keys, value)
            self._count(keys, made.count)
            return made
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or not all(isinstance(item, int | float | str) for item in values):
            raise self.error(
                keys,
                f"{keys[-1]} = {value!r} has no value",
                "write a scalar (fixed), a list of scalars (choice) or { low, high, step } (range)",
            )
        if len(set(values)) < len(values):
            raise self.error(keys, f"{keys[-1]} = {value!r} repeats a value", "give each one once")
        if len(values) > 1:
            self._count(keys, len(values))
        return Choice(values)

    def _count(self, keys: Keys, values: int) -> None:
        """Count values of choices and ranges: each is checked, and a line may stand for 10,000."""
        self._values += values
        if self._values > _MOST_VALUES:
            what = f"choices and ranges have more than {_MOST_VALUES:,} values together"
            raise self.error(keys, what, "give larger steps, or fewer of them")

    def _range(self, keys: Keys, value: dict[str, Any]) -> Range:
        self.check_names(keys, value, ["low", "high", "step"], "part of a range")
        low, high, step = value.get("low"), value.get("high"), value.get("step", 1)
        if _is_number(low) and _is_number(high) and _is_number(step) and step > 0:
            steps = (high - low) / step
            if 0 <= steps <= 10_000 and abs(steps - round(steps)) < 1e-6:
                return Range(low, high, step)
        raise self.error(
            keys,
            f"{keys[-1]} = {value!r} is not a range",
            "give numbers with low <= high, and a step above 0 that leads from low to high",
        )


_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"^\s*([\w\"'.\s-]+?)\s*=")


def line_numbers(text: str) -> dict[Keys, int]:
    """Line number of every table and key by its path; keys inside `{ }` are left out."""
    lines: dict[Keys, int] = {}
    counts: dict[Keys, int] = {}
    current: Keys = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            current = _numbered(_split(header[2]), counts, header[1] == "[[")
        elif key := _KEY.match(line):
            lines.setdefault((*current, *_split(key[1])), number)
        lines.setdefault(current, number)
    return lines


def _numbered(keys: Keys, counts: dict[Keys, int], new: bool) -> Keys:
    """Insert the index of the array element that a header refers to into `keys`."""
    if new:
        counts[keys] = counts.get(keys, -1) + 1
    for end in range(len(keys), 0, -1):
        if keys[:end] in counts:
            return (*keys[:end], counts[keys[:end]], *keys[end:])
    return keys


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float)


def _split(dotted: str) -> Keys:
    return tuple(part.strip(" \t\"'") for part in dotted.split("."))
