"""Read tables: CSV with any usual delimiter, TSV and JSON lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.data.layouts.tables import Table, are_numbers, cell_text
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.errors import DataError

TABLE = FileKind("tables", 128 << 20)
TABLE_SUFFIXES = {".csv": ",;\t|", ".tsv": "\t", ".tab": "\t", ".jsonl": "", ".ndjson": ""}
"""Suffix -> delimiters that may stand between its columns; empty for JSON lines."""
_MOST_COLUMNS = 4096
_MOST_CELLS = 1 << 25
"""Rows times columns of JSON lines; a row may lack columns, and takes no bytes for them then."""
_LONGEST_LINE = 1 << 20
"""Characters of a line."""
_LINES_A_ROW = 100
"""Lines that a row with line breaks in its quotes may have."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_MOST_SHARED = 1000
"""Different texts of a column that are held once."""
_LOOKED_AT = 50
"""Rows from which the delimiter is recognised."""
_FIX = "give a table with a line of names on top, such as path,label, in UTF-8"


def read_table(path: Path) -> Table:
    """Read a table whose suffix is one of `TABLE_SUFFIXES`.

    Raises
    ------
    DataError
        If it is not a table in UTF-8, or exceeds a limit; the message names the line.
    """
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
    delimiters = TABLE_SUFFIXES[path.suffix.lower()]
    return _delimited(path, text, delimiters) if delimiters else _json_lines(path, text)


class _Lines:
    """Lines of a text, at most `_LINES_A_ROW` for each row, which the reader of rows resets."""

    def __init__(self, text: str) -> None:
        # A stream of texts would hold four bytes a character.
        self._lines = (match[0] for match in _LINE.finditer(text))
        self.number = 0
        self._first = 1
        """Lines that were given, and number of the first line of the row."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
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
    stated = re.match(r"sep=(.)\r?(?=\n|$)", text)  # As Excel writes it.
    delimiter = stated[1] if stated else _delimiter(path, text, delimiters)
    rows = _rows(path, text[stated.end() :] if stated else text, delimiter)
    try:
        header_line, header = next(rows)
    except StopIteration:
        raise DataError(f"{path} is empty", fix=_FIX) from None
    names = [name.strip() for name in header]
    _check_header(path, header_line, names)
    columns: list[list[str]] = [[] for _ in names]
    known: list[dict[str, str]] = [{} for _ in names]
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
        for column, texts, cell in zip(columns, known, row, strict=True):
            cell_text = cell.strip()
            if len(texts) < _MOST_SHARED:  # Labels and names of recordings are held once.
                cell_text = texts.setdefault(cell_text, cell_text)
            column.append(cell_text)
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
    if _are_values(filled):
        raise DataError(
            f"{path}, line {line}: it holds numbers, {','.join(names)[:60]!r}, and no names of "
            "columns",
            fix="write a line of names on top, such as x,y,z,label; of the UCR archive, whose "
            "lines are a series with its label first, files NAME_TRAIN.tsv are read",
        )
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


def _are_values(names: Sequence[str]) -> bool:
    """Whether texts are measured values: numbers, some with a fraction or a sign."""
    is_whole = [name.isdecimal() for name in names]
    return bool(names) and not all(is_whole) and are_numbers(names)


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
        if twice := _add_row(row, columns, len(places)):
            what = f"two keys are {twice!r:.60} without the spaces around them"
            raise DataError(f"{path}, {place}: {what}", fix="give each key once")
        places.append(place)
        if len(columns) > _MOST_COLUMNS:
            raise DataError(f"{path}, {place}: more than {_MOST_COLUMNS} different keys", fix=fix)
        if len(columns) * len(places) > _MOST_CELLS:
            raise DataError(
                f"{path}, {place}: {len(places)} rows with {len(columns)} different keys, at most "
                f"{_MOST_CELLS} rows times keys are read",
                fix="give each row the same keys, or divide the table",
            )
    for column in columns.values():
        column += [""] * (len(places) - len(column))
    return _table(path, columns, places)


def _add_row(row: Mapping[str, object], columns: dict[str, list[str]], number: int) -> str:
    """Put the cells of a row into its columns; a name that two of its keys have, if any.

    A column that rows lack is filled up when one has it.
    """
    for key, value in row.items():
        column = columns.setdefault(name := key.strip(), [])
        if len(column) > number:
            return name
        column += [""] * (number - len(column))
        column.append(cell_text(value))
    return ""
