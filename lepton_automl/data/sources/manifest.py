"""A table of picture files, one a row: CSV, TSV or JSON lines with a path and a label."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lepton_automl.core.files import real_path
from lepton_automl.data.decode import SUFFIXES
from lepton_automl.data.sources import Samples, Source
from lepton_automl.data.table_files import TABLE_SUFFIXES, read_table
from lepton_automl.data.tables import Roles, Rows, Table, assigned_rows, find_roles, make_samples
from lepton_automl.errors import ConfigError


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
        return Path(data).suffix.lower() in TABLE_SUFFIXES and Path(data).is_file()

    def read(self, data: str) -> Samples:
        path = Path(data)
        if self._root is not None and not self._root.is_dir():
            raise ConfigError(f"--root {self._root} is not a folder", fix="give a folder")
        table = read_table(path)
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
