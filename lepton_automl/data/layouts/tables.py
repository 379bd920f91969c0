"""Tables of labelled pictures: which column holds what, and the samples that its rows make."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import plugins
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_files import whole_number
from lepton_automl.data.layouts.one_hot import one_hot_columns, one_hot_text, with_one_label
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.pictures.picture_files import SUFFIXES, Picture
from lepton_automl.data.samples import Samples, numbered, used_classes
from lepton_automl.data.signal_files import SUFFIXES as RECORDING_SUFFIXES
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.option_texts import NONE
from lepton_automl.text import printable

COLUMN_WORDS = {
    "path": "path filepath imagepath imgpath picturepath filename imagefilename imgfilename file "
    "imagefile imgfile imagename imgname fname image img picture photo relativepath relpath "
    "imageid slicefilename id",
    "label": "label class target category labelname classname categoryname classlabel y species "
    "diagnosis dx labels classes classid labelid",
    "split": "split part subset set partition phase usage fold",
    "group": "group groupid patientid patient lesionid lesion subjectid subject speakerid speaker "
    "personid person participantid participant userid user sessionid session recordingid recording "
    "videoid video",
    "weight": "weight sampleweight weights",
}
"""What a column holds -> names of such columns, without signs and in lower case, best first."""

_ROLES = ("path", "label", "split", "group")
_FEW = 20
"""Values of a column that are looked at to see what it holds."""
_SHOWN = 5
"""Rows or values that an error names."""
_NUMERIC_SHARE = 0.8
"""Share of columns of numbers from which on a table without paths is taken for a table of data."""
_WHOLE_FRACTION = re.compile(r"(-?\d+)(?:\.0+)?")
"""A whole number, also as pandas writes it where a column lacks values: `3.0`."""


@dataclass(frozen=True)
class Table:
    """Rows of texts with named columns."""

    name: str
    """In messages: the path of its file."""
    columns: Mapping[str, Sequence[str]]
    """Name -> a text for each row; empty where a row has none."""
    places: Sequence[str]
    """Of each row, in messages: `line 7`."""

    def __len__(self) -> int:
        return len(self.places)

    def other_columns(self, roles: Roles) -> dict[str, Sequence[str]]:
        """The columns that hold neither path nor label nor part."""
        known = (roles.path, roles.label, roles.split)
        return {name: column for name, column in self.columns.items() if name not in known}

    def error(self, rows: Sequence[int], what: str, fix: str) -> DataError:
        """The error for rows of which `what` is wrong; it names the first ones."""
        shown = ", ".join(self.places[row] for row in rows[:_SHOWN])
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return DataError(f"{self.name}, {shown}{more}: {what}", fix=fix)


@dataclass(frozen=True)
class Roles:
    """Names of the columns of a table by what they hold; empty for none."""

    path: str = ""
    label: str = ""
    split: str = ""
    group: str = ""

    one_hot: tuple[str, ...] = ()
    """Columns that the label was made of, a class each; empty where it is a column of the file."""

    @property
    def text(self) -> str:
        """In words: `path is file, label is species`."""
        taken = {role: printable(getattr(self, role)) for role in _ROLES}
        if self.one_hot:
            taken["label"] = one_hot_text(self.one_hot)
        return ", ".join(f"{role} is {text}" for role, text in taken.items() if text)


def find_roles(
    table: Table, stated: Mapping[str, str] | None, *, needs_path: bool = True
) -> tuple[Table, Roles, Decision | None]:
    """Decide which column holds what: as stated, else by names, else by values.

    Parameters
    ----------
    table : Table
        A table.
    stated : mapping of str to str, optional
        What a column holds -> its name, `none` for no column; of the label also the columns of
        its classes with `+` between them.
    needs_path : bool
        Whether a column has to name picture files.

    Returns
    -------
    Table
        The table, with one column of labels where it has a column each class (`one_hot`).
    Roles
    Decision or None
        What was decided; None where all is stated.

    Raises
    ------
    DataError
        If a column that is needed is not found, or the table holds numbers and no pictures.
    ConfigError
        If what is stated does not fit the table.
    """
    stated = dict(stated or {})
    one_hot = _named_classes(table, stated)
    if one_hot:
        table, stated["label"] = with_one_label(table, one_hot)
    taken = _by_names(table, stated, needs_path=needs_path)
    is_weight_stated = "weight" in stated
    if "label" not in taken:
        rest = [name for name in table.columns if name not in taken.values()]
        one_hot = one_hot_columns(table, rest) if len(rest) > 1 else ()
        if one_hot:
            table, taken["label"] = with_one_label(table, one_hot)
        else:
            taken["label"] = _only_rest(table, taken)
    _refuse_weight(table, taken, is_stated=is_weight_stated)
    found = Roles(**{role: taken.get(role, "") for role in _ROLES}, one_hot=one_hot)
    if set(_ROLES) - {"path" if not needs_path else ""} <= set(stated):
        return table, found, None
    return (
        table,
        found,
        _decision(table, taken, found, is_found=bool(one_hot) and "label" not in stated),
    )


def _by_names(table: Table, stated: Mapping[str, str], *, needs_path: bool) -> dict[str, str]:
    """What columns hold, as stated or by their names, and the paths by their values."""
    roles = [role for role in COLUMN_WORDS if needs_path or role != "path"]
    given = checked_columns(table, stated, roles)
    taken: dict[str, str] = {}
    for role in roles:
        if role in given:
            name = given[role]
        else:
            free = [n for n in table.columns if n not in (*given.values(), *taken.values())]
            name = _by_name(table, role, free)
        if name:
            taken[role] = name
    if needs_path and not taken.get("path"):
        taken["path"] = _paths_by_values(
            table, [n for n in table.columns if n not in taken.values()]
        )
    return taken


_SPLIT_NAMES, _MOST_PARTS = frozenset({"split", "splits", "subset", "partition"}), 5
"""Names of columns that hold parts, and values of such a column at most."""


def _decision(table: Table, taken: Mapping[str, str], found: Roles, *, is_found: bool) -> Decision:
    rest = [name for name in table.columns if name not in taken.values()]
    more = f"; attributes: {', '.join(map(printable, rest[:10]))}" if rest else ""
    if len(rest) > 10:
        more += f" and {len(rest) - 10} more"
    evidence = f"names of the {len(table.columns)} columns"
    if is_found:
        count = len(found.one_hot)
        evidence = f"none of the other columns is named as a label, {count} have one 1 in each row"
        evidence += " (one-hot)"
    odd = [name for name in rest if name.strip().lower() in _SPLIT_NAMES]
    if odd and not found.split and 2 <= len(values := _values(table, odd[0])) <= _MOST_PARTS:
        named = " and ".join(map(printable, values[:3]))
        return Decision(
            "columns",
            f"{found.text}{more}; parts are drawn, since {named} in {printable(odd[0])} name none",
            evidence,
            "assumed",
            f"--columns split={printable(odd[0])} --parts train={printable(values[0])},"
            f"test={printable(values[1])}",
        )
    return Decision("columns", found.text + more, evidence, "inferred", "--columns")


def _named_classes(table: Table, stated: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of classes that `--columns label=A+B` names; empty where it names one column.

    Raises
    ------
    ConfigError
        If a name is not known, or given twice.
    """
    label = stated.get("label", "")
    if "+" not in label or label in table.columns:
        return ()
    names = label.split("+")
    for name in names:
        if name not in table.columns:
            error = plugins.unknown_name(name, list(table.columns)[:50], "column")
            raise ConfigError(
                f"--columns label={label}: {error.what} of {table.name}", fix=error.fix
            )
    used = names + [name for role, name in stated.items() if role != "label"]
    if twice := {name for name in names if used.count(name) > 1}:
        raise ConfigError(
            f"--columns names {min(twice)!r} twice", fix="give each column one meaning"
        )
    return tuple(names)


def checked_columns(
    table: Table, stated: Mapping[str, str], roles: Sequence[str]
) -> dict[str, str]:
    """What `--columns` states, an empty text for `none`."""
    given = {}
    for role, name in stated.items():
        option = f"--columns {role}={name}"
        if role not in roles:
            error = plugins.unknown_name(role, list(roles), "kind of column")
            raise ConfigError(f"{option}: {error.what} of {table.name}", fix=error.fix)
        if name == NONE and name not in table.columns:
            if role in ("path", "label"):
                raise ConfigError(f"{option}: a table needs it", fix="name a column")
            given[role] = ""
        elif name in table.columns:
            given[role] = name
        else:
            error = plugins.unknown_name(name, list(table.columns)[:50], "column")
            raise ConfigError(f"{option}: {error.what} of {table.name}", fix=error.fix)
    named = [name for name in given.values() if name]
    if twice := {name for name in named if named.count(name) > 1}:
        raise ConfigError(
            f"--columns names {min(twice)!r} twice", fix="give each column one meaning"
        )
    return given


def _by_name(table: Table, role: str, free: Sequence[str]) -> str:
    """The column whose name means `role` best; empty if none does."""
    words = COLUMN_WORDS[role].split()
    plain = {name: re.sub(r"[\W_]+", "", name).lower() for name in free}
    found = sorted((words.index(word), name) for name, word in plain.items() if word in words)
    if role == "path":  # `image` may be a number and `file` the name of the picture.
        found = [item for item in found if not are_numbers(table.columns[item[1]])]
        found.sort(key=lambda item: (not are_paths(table, item[1]), item))
    if role == "split":
        found = [item for item in found if parts_named(_values(table, item[1]))]
    if role == "weight":
        found = [item for item in found if are_numbers(table.columns[item[1]])]
    if not found:
        return ""
    best, name = found[0]
    if twins := [other for place, other in found[1:] if place == best]:
        raise DataError(
            f"{table.name}: the columns {name!r} and {twins[0]!r} both could be the {role}",
            fix=f"state which: --columns {role}={name}",
        )
    return name


def _values(table: Table, name: str) -> list[str]:
    """Different values of a column in their order, without the empty one."""
    return [text for text in dict.fromkeys(table.columns[name]) if text]


def are_paths(table: Table, name: str) -> bool:
    """Whether the first texts of a column name files of pictures or of recordings."""
    some = [text for text in table.columns[name][:_FEW] if text]
    endings = [f".{text.rpartition('.')[2].lower()}" for text in some]
    known = SUFFIXES | RECORDING_SUFFIXES
    return bool(some) and all(ending in known for ending in endings)


def are_numbers(column: Sequence[str]) -> bool:
    """Whether the first texts of a column are numbers, or empty, but not all."""
    try:
        for text in column[:_FEW]:
            float(text or 0)
    except ValueError:
        return False
    return any(column[:_FEW])


def _paths_by_values(table: Table, free: Sequence[str]) -> str:
    found = [name for name in free if are_paths(table, name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(printable, list(table.columns)[:10]))
    more = f" and {len(table.columns) - 10} more" if len(table.columns) > 10 else ""
    if found:
        raise DataError(
            f"{table.name}: the columns {' and '.join(found[:3])} all name picture files",
            fix=f"state which: --columns path={found[0]}",
        )
    numeric = sum(are_numbers(column) for column in table.columns.values())
    if numeric >= _NUMERIC_SHARE * len(table.columns):
        raise DataError(
            f"{table.name} is a table of numbers ({numeric} of {len(table.columns)} columns: "
            f"{names}{more}), and no column names files; lepton searches nets for pictures, "
            "signals and sound, not for rows that are independent of each other",
            fix="for such tables use scikit-learn (HistGradientBoostingClassifier) or AutoGluon; "
            "where the numbers are pixels, save them as arrays: np.savez(path, x=..., y=...); "
            "where rows are values of sensors over time: --columns recording=COLUMN (or "
            "time=COLUMN, channels=A+B), with label=COLUMN; where a column names files: --columns "
            "path=COLUMN",
        )
    raise DataError(
        f"{table.name}: no column names picture files, the columns are {names}{more}",
        fix="state which: --columns path=COLUMN,label=COLUMN (a table begins with a line of names, "
        "such as path,label); where rows are values of sensors over time: --columns "
        "recording=COLUMN (or time=COLUMN, channels=A+B), with label=COLUMN; for tables without "
        "pictures, signals or sound use scikit-learn or AutoGluon",
    )


def _only_rest(table: Table, taken: Mapping[str, str]) -> str:
    """The label, where one column is left."""
    rest = [name for name in table.columns if name not in taken.values()]
    if len(rest) == 1:
        return rest[0]
    names = ", ".join(map(printable, rest[:10])) or "none"
    raise DataError(
        f"{table.name}: no column is named as a label; besides "
        f"{', '.join(taken.values()) or 'none'} there are: {names}",
        fix=f"state which: --columns label={rest[0] if rest else 'COLUMN'}; where each class has a "
        "column, of which one is 1 in each row: --columns label=A+B+C",
    )


def _refuse_weight(table: Table, taken: dict[str, str], *, is_stated: bool) -> None:
    if not (name := taken.get("weight")):
        return
    what = "trainings and intervals give each picture of a class the same weight"
    if is_stated:
        raise ConfigError(
            f"--columns weight={name}: {what}, so weights cannot be used", fix="leave it out"
        )
    raise DataError(
        f"{table.name} has a column {name!r}; {what}, so weights of pictures cannot be used",
        fix="leave rows out, or give --columns weight=none if it is not a weight of samples: it "
        "becomes an attribute then; --balance weighs classes",
    )


@dataclass(frozen=True)
class Rows:
    """The rows of a table that are samples."""

    kept: NDArray[np.int64]
    """Their places in the table."""
    parts: NDArray[np.str_]
    """(N,): part of each, or empty."""
    notes: tuple[str, ...]
    decisions: tuple[Decision, ...]


def assigned_rows(table: Table, roles: Roles, stated: Mapping[str, str] | None) -> Rows:
    """The parts of rows; rows of a test part without labels are left out.

    Parameters
    ----------
    table : Table
        A table.
    roles : Roles
        Its columns.
    stated : mapping of str to str, optional
        Part -> value of the split column; empty: the column is left out.

    Raises
    ------
    DataError
        If a value means no part, or labels are missing.
    ConfigError
        If `stated` does not fit.
    """
    parts, decisions = row_parts(table, roles, stated)
    labels = np.array([bool(text.strip()) for text in table.columns[roles.label]], np.bool_)
    is_test = parts == "test"
    notes: tuple[str, ...] = ()
    kept = np.full(len(table), True)
    if is_test.any() and not labels[is_test].any():
        kept = ~is_test
        notes = (
            f"{is_test.sum()} rows of the test part have no label and are left out: a test part is "
            "drawn from the rest; `lepton predict` classifies them",
        )
    if len(missing := np.flatnonzero(kept & ~labels)):
        raise table.error(
            missing.tolist(),
            f"{len(missing)} of {kept.sum()} rows have no label in the column {roles.label!r}",
            "give each row a label, or leave these rows out",
        )
    if not kept.any():
        raise DataError(f"{table.name} holds no labelled pictures", fix="add rows with labels")
    return Rows(np.flatnonzero(kept), parts[kept], notes, decisions)


def row_parts(
    table: Table, roles: Roles, stated: Mapping[str, str] | None
) -> tuple[NDArray[np.str_], tuple[Decision, ...]]:
    """Part of each row by the column of the parts, empty without one, and the decision on it.

    Raises
    ------
    DataError
        If a value means no part.
    ConfigError
        If `stated` does not fit.
    """
    if not roles.split:
        if stated:
            names = ", ".join(map(printable, list(table.columns)[:10]))
            raise ConfigError(
                f"--parts has no effect: no column of {table.name} holds parts",
                fix=f"name it with --columns split=COLUMN, one of: {names}",
            )
        return np.full(len(table), "", "<U10"), ()
    values = _values(table, roles.split)
    if stated == {}:
        return np.full(len(table), "", "<U10"), ()
    part_of = parts_named(values) if stated is None else _by_option(table, roles, values, stated)
    unknown = [value for value in values if value not in part_of]
    if stated is None and unknown:
        known = dict.fromkeys(part_of.values())
        raise table.error(
            [row for row, text in enumerate(table.columns[roles.split]) if text in unknown],
            f"{unknown[0]!r} in the column {roles.split!r} means no part",
            f"write train, validation or test, or state what they mean: --parts "
            f"{'' if 'train' in known else 'train=NAME,'}test={unknown[0]}; --parts none leaves "
            "the column out",
        )
    if unknown:
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        raise ConfigError(
            f"--parts does not say what {shown} in the column {roles.split!r} mean",
            fix="give each value of the column a part, or leave these rows out",
        )
    found = np.array([part_of.get(text, "") for text in table.columns[roles.split]], "<U10")
    if stated is not None:
        return found, ()
    chosen = ", ".join(f"{part} is {printable(value)}" for value, part in part_of.items())
    evidence = f"values of the column {roles.split}"
    return found, (Decision("parts", chosen, evidence, "inferred", "--parts"),)


def _by_option(
    table: Table, roles: Roles, values: Sequence[str], stated: Mapping[str, str]
) -> dict[str, str]:
    for part, value in stated.items():
        if value not in values:
            shown = ", ".join(map(repr, values[:10]))
            raise ConfigError(
                f"--parts {part}={value}: the column {roles.split!r} of {table.name} has no such "
                "value",
                fix=f"give values of that column: {shown}",
            )
    return {value: part for part, value in stated.items()}


def make_samples(
    table: Table,
    roles: Roles,
    rows: Rows,
    pictures: Sequence[Picture],
    ids: Sequence[str],
    class_names: Sequence[str] | None = None,
    decisions: Sequence[Decision] = (),
    notes: Sequence[str] = (),
) -> Samples:
    """The samples of the kept rows, sorted by class and name as those of a folder are.

    Parameters
    ----------
    table, roles, rows
        A table, its columns, and its rows that are samples.
    pictures, ids
        Picture and name of each kept row.
    class_names : sequence of str, optional
        Names of the classes where the labels are their numbers.
    decisions, notes
        Further ones.
    """
    numbers, found = _classes(table, roles, rows, class_names)
    names, labels, unused = used_classes(found, np.array(numbers, np.int64))
    order = sorted(range(len(ids)), key=lambda n: (labels[n], folder_order(ids[n])))
    places = [int(rows.kept[n]) for n in order]
    groups = None
    if roles.group:
        column = table.columns[roles.group]
        keys = [f"={column[row]}" if column[row] else f"#{row}" for row in places]
        if len(set(keys)) < len(keys):  # Else no two samples share a group.
            groups = numbered(keys)[1]
    return Samples(
        pictures=tuple(pictures[n] for n in order),
        labels=labels[order],
        class_names=names,
        ids=tuple(ids[n] for n in order),
        parts=rows.parts[order] if roles.split else None,
        groups=groups,
        attributes={
            name: tuple(column[row] for row in places)
            for name, column in table.other_columns(roles).items()
        },
        notes=(*notes, *unused, *rows.notes),
        decisions=(*decisions, *rows.decisions),
    )


def folder_order(name: str) -> tuple[tuple[bool, str], ...]:
    """Key that sorts paths as a folder is read: files by name, then the folders beside them."""
    *folders, file = name.split("/")
    return (*((True, folder) for folder in folders), (False, file))


def _classes(
    table: Table, roles: Roles, rows: Rows, class_names: Sequence[str] | None
) -> tuple[list[int], list[str]]:
    """Label of each kept row as an index into the names of the classes, and these."""
    column = table.columns[roles.label]
    texts = class_texts([column[row] for row in rows.kept])
    known = set(texts)
    if class_names is not None:
        return _numbers(table, rows, texts, class_names)
    if bad := [n for n, text in enumerate(texts) if not text.isprintable()]:
        raise table.error(
            [int(rows.kept[bad[0]])],
            f"the label {texts[bad[0]]!r} has characters that cannot be shown",
            "correct the label",
        )
    names = ordered_names(known)
    place = {name: n for n, name in enumerate(names)}
    return [place[text] for text in texts], names


def label_texts(
    table: Table, roles: Roles, rows: Rows, class_names: Sequence[str] | None = None
) -> list[str]:
    """Name of the class of each kept row; `class_names` where the labels are their numbers."""
    labels, names = _classes(table, roles, rows, class_names)
    return [names[label] for label in labels]


def class_texts(texts: Sequence[str]) -> list[str]:
    """Labels without space around them; whole numbers without `.0`, where all are numbers."""
    plain = [text.strip() for text in texts]
    matches = [_WHOLE_FRACTION.fullmatch(text) for text in plain]
    return [match[1] for match in matches if match is not None] if all(matches) else plain


def ordered_names(known: Collection[str]) -> list[str]:
    """Names of classes in their order: numbers by size, others as texts."""
    numbers = {text: whole_number(text) for text in known}
    are_whole = None not in numbers.values()
    return sorted(known, key=lambda text: (numbers[text] or 0 if are_whole else 0, text))


def _numbers(
    table: Table, rows: Rows, texts: Sequence[str], class_names: Sequence[str]
) -> tuple[list[int], list[str]]:
    labels = []
    for row, text in zip(rows.kept.tolist(), texts, strict=True):
        number = whole_number(text)
        if number is None or not 0 <= number < len(class_names):
            raise table.error(
                [row],
                f"the label {text!r}, the rule is 0 to {len(class_names) - 1}, a number of "
                f"{', '.join(class_names[:10])}",
                "correct the label or leave the row out",
            )
        labels.append(number)
    return labels, list(class_names)


def cell_text(value: object) -> str:
    """The text of a cell that another format than CSV holds as a value; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()
