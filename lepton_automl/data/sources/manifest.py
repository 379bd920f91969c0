"""A table of picture files, one a row: CSV, TSV or JSON lines with a path and a label."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.core import untrusted_files
from lepton_automl.core.files import real_path
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.data.decode import SUFFIXES
from lepton_automl.data.sources import Samples, Source
from lepton_automl.data.tables import Roles, Rows, Table, assigned_rows, find_roles, make_samples
from lepton_automl.errors import ConfigError, DataError

TABLE = FileKind("tables", 128 << 20)
_SUFFIXES = {".csv": ",;\t|", ".tsv": "\t", ".tab": "\t", ".jsonl": "", ".ndjson": ""}
"""Suffix -> delimiters that may stand between its columns; empty for JSON lines."""
_MOST_COLUMNS = 4096
_LONGEST_LINE = 1 << 20
"""Characters of a line."""
_LINES_A_ROW = 100
"""Lines that a row with line breaks in its quotes may have."""
_LOOKED_AT = 50
"""Rows from which the delimiter is recognised."""
_FIX = "give a table with a line of names on top, such as path,label, in UTF-8"


class Manifest(Source):
    """A row a picture; columns of other names become attributes.

    Columns are recognised by their names (`data.tables.COLUMN_WORDS`). Paths are relative to the
    folder of the table, or to `root`, and must not lead out of it.

    Parameters
    ----------
    columns : mapping of str to str, optional
        What a column holds (`path`, `label`, `split`, `group`) -> its name.
    parts : mapping of str to str, optional
        Part -> value of the split column; empty: that column is left out.
    root : Path, optional
        Folder of the pictures.
    """

    uses = frozenset({"columns", "parts", "root"})

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        parts: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        self._columns, self._parts, self._root = columns, parts, root

    def accepts(self, data: str) -> bool:
        return Path(data).suffix.lower() in _SUFFIXES and Path(data).is_file()

    def read(self, data: str) -> Samples:
        path = Path(data)
        if self._root is not None and not self._root.is_dir():
            raise ConfigError(f"--root {self._root} is not a folder", fix="give a folder")
        table = _read_table(path)
        roles, decision = find_roles(table, self._columns)
        rows = assigned_rows(table, roles, self._parts)
        root = path.parent if self._root is None else self._root
        ids, rows, note = _different(table, roles, rows, _paths(table, roles, rows, root))
        suffix = _missing_suffix(root / ids[0])
        ids = [name + suffix for name in ids]
        files = [root / name for name in ids]
        _check_files(table, roles, rows, files, root)
        return make_samples(
            table,
            roles,
            rows,
            files,
            ids,
            decisions=() if decision is None else (decision,),
            notes=note,
        )


def _read_table(path: Path) -> Table:
    content = untrusted_files.read_bytes(path, TABLE, fix=_FIX)
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
            line = content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8",
                fix="save the table as UTF-8, in Excel as `CSV UTF-8`",
            ) from error
    text = untrusted_files.decode_text(content, path, fix="save the table as UTF-8")
    del content
    if not text.strip():
        raise DataError(f"{path} is empty", fix=_FIX)
    delimiters = _SUFFIXES[path.suffix.lower()]
    return _delimited(path, text, delimiters) if delimiters else _json_lines(path, text)


class _Lines:
    """Lines of a text, at most `_LINES_A_ROW` for each row, which the reader of rows resets."""

    def __init__(self, text: str) -> None:
        self._stream = io.StringIO(text, newline="")
        self.number = 0
        self._first = 1
        """Lines that were given, and number of the first line of the row."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self.number += 1
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"it has {len(line)} characters, at most {_LONGEST_LINE} are read")
        if self.number - self._first >= _LINES_A_ROW:
            raise ValueError(
                f"a row goes on for {_LINES_A_ROW} lines: is a quotation mark not closed?"
            )
        return line

    def begin_row(self) -> int:
        """Number of the line in which the next row begins."""
        self._first = self.number + 1
        return self._first


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line in which each begins; empty lines are left out."""
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            raise DataError(
                f"{path}, line {line}: {error}",
                fix="correct that line; texts with the delimiter or quotation marks stand in "
                '"quotation marks", those in them twice',
            ) from error
        if any(cell.strip() for cell in row):
            yield line, row


def _delimited(path: Path, text: str, delimiters: str) -> Table:
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r"sep=(.)\r?", first)  # As Excel writes it.
    delimiter = stated[1] if stated else _delimiter(path, text, delimiters)
    rows = _rows(path, f"\n{rest}" if stated else text, delimiter)
    try:
        header_line, header = next(rows)
    except StopIteration:
        raise DataError(f"{path} is empty", fix=_FIX) from None
    names = [name.strip() for name in header]
    _check_header(path, header_line, names)
    columns: list[list[str]] = [[] for _ in names]
    places = []
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(row)} columns, the line of names has {len(names)} "
                f"({', '.join(names[:10])})",
                fix="give each line as many columns; texts with the delimiter stand in quotation "
                "marks",
            )
        places.append(f"line {line}")
        for column, cell in zip(columns, row, strict=True):
            column.append(cell.strip())
    return _table(path, dict(zip(names, columns, strict=True)), places)


def _delimiter(path: Path, text: str, delimiters: str) -> str:
    """The delimiter that divides the first rows into the most columns, equally many in each."""
    if len(delimiters) == 1:
        return delimiters
    best, most = delimiters[0], (False, 0)
    for delimiter in delimiters:
        counts = []
        try:
            for _, row in _rows(path, text, delimiter):
                counts.append(len(row))
                if len(counts) == _LOOKED_AT:
                    break
        except DataError:
            if not counts:
                continue
        found = len(set(counts)) == 1 and counts[0] > 1, counts[0] if counts else 0
        if found > most:
            best, most = delimiter, found
    return best


def _check_header(path: Path, line: int, names: Sequence[str]) -> None:
    if len(names) > _MOST_COLUMNS:
        raise DataError(
            f"{path} has {len(names)} columns, at most {_MOST_COLUMNS} are read",
            fix="lepton searches nets for pictures; for tables of data use scikit-learn or "
            "AutoGluon",
        )
    filled = [name for name in names if name]
    if twice := next((name for name in filled if filled.count(name) > 1), ""):
        raise DataError(
            f"{path}, line {line}: two columns are named {twice!r}", fix="give each a name"
        )
    # The index that pandas writes has an empty name.
    if names.count("") > 1:
        raise DataError(f"{path}, line {line}: {names.count('')} columns have no name", fix=_FIX)
    if any(Path(name).suffix.lower() in SUFFIXES for name in names):
        raise DataError(
            f"{path}, line {line}: it names a picture, {','.join(names)[:200]!r}, and no columns",
            fix="write a line of names on top, such as path,label",
        )
    if len(names) == 1:
        raise DataError(
            f"{path} has one column, {names[0]!r}; a table needs a path and a label a row",
            fix="separate columns by comma, semicolon, tab or |; a folder of pictures of one class "
            "each needs no table",
        )


def _table(path: Path, columns: Mapping[str, Sequence[str]], places: Sequence[str]) -> Table:
    if not places:
        raise DataError(f"{path} has no rows below its line of names", fix=_FIX)
    return Table(str(path), {name: column for name, column in columns.items() if name}, places)


def _json_lines(path: Path, text: str) -> Table:
    columns: dict[str, list[str]] = {}
    places: list[str] = []
    for line, source in enumerate(io.StringIO(text), start=1):
        if not source.strip():
            continue
        place = f"line {line}"
        if len(source) > _LONGEST_LINE:
            what = f"it has {len(source)} characters, at most {_LONGEST_LINE} are read"
            raise DataError(f"{path}, {place}: {what}", fix="give one object a line")
        fix = 'give one JSON object a line, such as {"path": "cat/1.jpg", "label": "cat"}'
        row = untrusted_files.parse_json(source, f"{path}, {place}", fix=fix, top=dict)
        texts = {name.strip(): _text(value) for name, value in row.items()}
        for name in texts:
            columns.setdefault(name, [""] * len(places))
        if len(columns) > _MOST_COLUMNS:
            raise DataError(f"{path}, {place}: more than {_MOST_COLUMNS} different keys", fix=fix)
        places.append(place)
        for name, column in columns.items():
            column.append(texts.get(name, ""))
    return _table(path, columns, places)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def _paths(table: Table, roles: Roles, rows: Rows, root: Path) -> list[str]:
    """Path of each row below `root`, with `/`, without `.` and `..`.

    Raises
    ------
    DataError
        If a path is empty, an address, or leads out of `root`.
    """
    column = table.columns[roles.path]
    texts = [column[row] for row in rows.kept]
    if empty := [int(row) for row, text in zip(rows.kept, texts, strict=True) if not text]:
        raise table.error(
            empty, f"no path in the column {roles.path!r}", "give each row a picture, or drop it"
        )
    if "/" not in "".join(texts[:100]) and "\\" in "".join(texts[:100]):
        texts = [text.replace("\\", "/") for text in texts]
    bases = (os.path.abspath(root), str(real_path(root)))  # noqa: PTH100 (keeps links)
    found = []
    for row, text in zip(rows.kept.tolist(), texts, strict=True):
        if "://" in text:
            raise table.error(
                [row],
                f"{text!r} is an address; pictures are read from this machine only",
                "download the pictures and give their paths",
            )
        inner = os.path.normpath(text)
        if os.path.isabs(text):  # noqa: PTH117 (a million texts)
            inner = min((os.path.relpath(inner, base) for base in bases), key=len)
        if inner == ".." or inner.startswith("../"):
            raise table.error(
                [row],
                f"{text!r} leads out of {root}, the folder in which pictures of this table are "
                "read; a table of someone else could name any file",
                f"if you trust it, name the folder that holds all of them: --root "
                f"{_common_folder(texts, bases[0])}",
            )
        found.append(inner)
    return found


def _missing_suffix(first: Path) -> str:
    """The suffix that makes a path without one the path of a picture file; else empty."""
    if first.suffix or first.exists():
        return ""
    found = (suffix for suffix in sorted(SUFFIXES) if first.with_name(first.name + suffix).exists())
    return next(found, "")


def _common_folder(texts: Sequence[str], base: str) -> str:
    folders = [os.path.dirname(os.path.normpath(os.path.join(base, text))) for text in texts]  # noqa: PTH118, PTH120
    return os.path.commonpath(folders)


def _different(
    table: Table, roles: Roles, rows: Rows, paths: list[str]
) -> tuple[list[str], Rows, tuple[str, ...]]:
    """Paths and rows without those that repeat another row.

    Raises
    ------
    DataError
        If a picture is in two rows with different labels or parts.
    """
    labels = table.columns[roles.label]
    first: dict[str, int] = {}
    kept, again = [], []
    for n, (path, row) in enumerate(zip(paths, rows.kept.tolist(), strict=True)):
        other = first.setdefault(path, n)
        if other == n:
            kept.append(n)
            continue
        earlier = int(rows.kept[other])
        if labels[row] != labels[earlier]:
            raise table.error(
                [earlier, row],
                f"{path!r} has the labels {labels[earlier]!r} and {labels[row]!r}; the rule is one "
                "label a picture",
                "correct one of them, or leave the picture out",
            )
        if rows.parts[n] != rows.parts[other]:
            raise table.error(
                [earlier, row],
                f"{path!r} is in the parts {rows.parts[other]} and {rows.parts[n]}",
                "leave it in one part",
            )
        again.append((row, earlier))
    if not again:
        return paths, rows, ()
    row, earlier = again[0]
    note = (
        f"ignored {len(again)} rows of {table.name} that repeat another, such as "
        f"{table.places[row]} and {table.places[earlier]}"
    )
    left = Rows(rows.kept[kept], rows.parts[kept], rows.notes, rows.decisions)
    return [paths[n] for n in kept], left, (note,)


def _check_files(table: Table, roles: Roles, rows: Rows, files: Sequence[Path], root: Path) -> None:
    missing = [n for n, file in enumerate(files) if not os.path.exists(file)]  # noqa: PTH110
    if not missing:
        return
    file = files[missing[0]]
    where = _where_it_is(file.relative_to(root), root)
    fix = (
        f"give --root {where}"
        if where
        else (
            "correct the paths, leave these rows out, or name the folder that they start from with "
            "--root"
        )
    )
    raise table.error(
        [int(rows.kept[n]) for n in missing],
        f"{len(missing)} of {len(files)} pictures are not there, such as {file}, by the column "
        f"{roles.path!r}",
        fix,
    )


def _where_it_is(path: Path, root: Path) -> str:
    """A folder beside the table in which the picture is; empty if none of the first ones."""
    try:
        with os.scandir(root) as entries:
            for _, entry in zip(range(1000), entries, strict=False):
                if entry.is_dir() and (Path(entry.path) / path).exists():
                    return entry.path
    except OSError:
        return ""
    return ""
