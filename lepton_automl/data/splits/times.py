"""Times of samples, by which parts are cut: read from the column that `--time` names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.errors import DataError

_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d)(?=$| )")
"""A date as cameras write it."""
_RULE = "the rule is numbers in all rows (a year, a count, seconds), or dates as 2024-05-31 or "
_RULE += "2024-05-31T18:30:00 in all rows"


@dataclass(frozen=True, eq=False)
class Times:
    """When the samples were taken."""

    column: str
    """Its name in the data."""
    texts: tuple[str, ...]
    """As they are written."""
    seconds: NDArray[np.float64]
    """(N,): numbers that grow with time."""

    def decision(
        self, parts: NDArray[np.str_], wanted: Sequence[str], groups: NDArray[np.int64] | None
    ) -> Decision:
        """Where the parts were cut.

        Parameters
        ----------
        parts : ndarray
            (N,): part of each sample.
        wanted : sequence of str
            Parts that were cut, and not given.
        groups : ndarray or None
            (N,): groups that were kept whole.
        """
        cut = ["train", *wanted]
        spans = "; ".join(
            f"{part} from {self._end(parts, part, np.argmin)} to "
            f"{self._end(parts, part, np.argmax)}"
            for part in cut
        )
        whole = "" if groups is None else ", groups kept whole by their latest time"
        return Decision(
            name="parts",
            choice=f"cut in the order of {self.column}{whole}: {spans}",
            evidence="shares of 15 % for each part that the data do not give, the latest for test",
            certainty="inferred",
            option="--time (leave it out: at random), or a column with the parts",
        )

    def _end(self, parts: NDArray[np.str_], part: str, end: Callable[[Any], Any]) -> str:
        places = np.flatnonzero(parts == part)
        return self.texts[int(places[int(end(self.seconds[places]))])]


def read_times(
    column: str, texts: tuple[str, ...], ids: Sequence[str], is_needed: NDArray[np.bool_]
) -> Times:
    """Read the times of samples; only of those that are needed each must be one.

    Raises
    ------
    DataError
        If a value is neither a number nor a date, or numbers and dates are mixed.
    """
    kinds: dict[str, int] = {}
    seconds = np.full(len(texts), np.nan)
    for place in np.flatnonzero(is_needed).tolist():
        kind, seconds[place] = _parsed(column, texts[place], ids[place])
        kinds.setdefault(kind, place)
    if len(kinds) > 1:
        (first, one), (second, other) = list(kinds.items())[:2]
        raise DataError(
            f"--time {column}: {texts[one]!r} of {ids[one]} is {first}, {texts[other]!r} of "
            f"{ids[other]} {second}; {_RULE}",
            fix="write all times in one form",
        )
    return Times(column, texts, seconds)


def _parsed(column: str, text: str, name: str) -> tuple[str, float]:
    """Kind of a time, and a number that grows with it."""
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(number):
            return "a number", number
    try:
        when = datetime.fromisoformat(_EXIF.sub(r"\1-\2-\3", text.strip()))
    except ValueError as error:
        raise DataError(
            f"--time {column}: {text!r} of {name} is not a time; {_RULE}",
            fix="correct the value, or leave the row out",
        ) from error
    if when.tzinfo is None:
        return "a date without a time zone", when.replace(tzinfo=UTC).timestamp()
    return "a date with a time zone", when.timestamp()
