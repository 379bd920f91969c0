"""Labels of a table in several columns, a class each, of which one holds 1 in each row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.errors import DataError
from lepton_automl.text import printable

if TYPE_CHECKING:
    from lepton_automl.data.layouts.tables import Table

_BITS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_NONE = -1
"""Stands for an empty cell."""
_SHOWN = 6


def one_hot_columns(table: Table, rest: Sequence[str]) -> tuple[str, ...]:
    """The columns that are labels, where no column is named as a label; empty where none are.

    They are all columns of zeros and ones, where each row has one 1, or nothing, in them, and no
    other column could hold classes.

    Parameters
    ----------
    table : Table
        A table.
    rest : sequence of str
        Columns that hold nothing else.

    Raises
    ------
    DataError
        If the columns could be labels, but others could too, or rows have no or several ones.
    """
    bits = {name: values for name in rest if (values := _bits(table.columns[name])) is not None}
    names = tuple(bits)
    if len(names) < 2 or parts_named(names):
        return ()
    shown, option = _shown(names), f"label={'+'.join(names[:2])}{'+...' * (len(names) > 2)}"
    wrong = _wrong_rows(list(bits.values()))
    if len(wrong) > len(table) / 2:
        return ()
    if len(wrong):
        raise table.error(
            wrong.tolist(),
            f"{len(wrong)} of {len(table)} rows have no 1, or several, in the columns {shown}, "
            "which would be labels if each row had one",
            f"a picture has one class: leave these rows out; or name the columns of the classes: "
            f"--columns {option}; or one column: --columns label=COLUMN",
        )
    others = [name for name in rest if name not in bits and _may_be_classes(table.columns[name])]
    if others:
        raise DataError(
            f"{table.name}: no column is named as a label; the columns {shown} could be, which "
            f"have one 1 in each row (one-hot), and {_shown(others)}",
            fix=f"state which: --columns {option} or --columns label={others[0]}",
        )
    return names


def with_one_label(table: Table, names: Sequence[str]) -> tuple[Table, str]:
    """The table with one column of labels in place of those of its classes, and its name.

    Raises
    ------
    DataError
        If a row has no 1 or several ones, and is not empty in all columns.
    """
    columns = []
    for name in names:
        if (values := _bits(table.columns[name])) is None:
            raise DataError(
                f"{table.name}: the column {name!r} holds other values than 0 and 1, so it is no "
                "column of one-hot labels",
                fix="name columns of which one is 1 in each row and the others 0",
            )
        columns.append(values)
    if len(wrong := _wrong_rows(columns)):
        raise table.error(
            wrong.tolist(),
            f"{len(wrong)} of {len(table)} rows have no 1, or several, in the columns "
            f"{_shown(names)}; a sample has one class",
            "correct these rows or leave them out",
        )
    stacked = np.stack(columns)
    is_empty, best = (stacked == _NONE).all(0), stacked.argmax(0)
    texts = ["" if empty else names[n] for empty, n in zip(is_empty, best.tolist(), strict=True)]
    label = "+".join(names)
    kept = {name: column for name, column in table.columns.items() if name not in names}
    return dataclasses.replace(table, columns={**kept, label: texts}), label


def one_hot_text(names: Sequence[str]) -> str:
    """What was taken for the label, in words."""
    return f"the name of the column with the 1, of {len(names)}: {_shown(names)}"


def _bits(column: Sequence[str]) -> NDArray[np.int8] | None:
    """0, 1 and `_NONE` for each cell; None where there are other texts, or no 0 and 1."""
    known = {text: _BITS.get(text.lower(), _NONE if not text else 2) for text in set(column)}
    if 2 in known.values() or not {0, 1} & set(known.values()):
        return None
    return np.array([known[text] for text in column], np.int8)


def _wrong_rows(columns: Sequence[NDArray[np.int8]]) -> NDArray[np.intp]:
    """Rows that have no 1, several, or only some values, and are not empty."""
    stacked = np.stack(columns)
    is_right = ((stacked == 1).sum(0) == 1) & (stacked != _NONE).all(0)
    return np.flatnonzero(~is_right & ~(stacked == _NONE).all(0))


def _may_be_classes(column: Sequence[str]) -> bool:
    """Whether a column has several values, and most rows share theirs with another one."""
    values = {text for text in column if text}
    return 2 <= len(values) <= len(column) / 2


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
