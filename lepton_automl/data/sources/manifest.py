"""A table with labels: of picture files or recordings, one a row, or of sensor values over time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lepton_automl.core.decisions import Decision
from lepton_automl.core.files import real_path
from lepton_automl.data import audio_files, signal_files
from lepton_automl.data.layouts.audio_tables import AudioOptions, cut_audio_rows, refuse
from lepton_automl.data.layouts.folder_kinds import is_ucr_file
from lepton_automl.data.layouts.series_tables import SeriesRoles, recordings_in, series_roles
from lepton_automl.data.layouts.table_files import TABLE_SUFFIXES, read_table
from lepton_automl.data.layouts.tables import (
    Roles,
    Rows,
    Table,
    assigned_rows,
    class_texts,
    find_roles,
    folder_order,
    make_samples,
)
from lepton_automl.data.layouts.windows import LabelledRecording, cut_recordings
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.data.samples import Samples, UnreadableFile
from lepton_automl.data.signal_files import check_alike, read_recordings, time_decisions
from lepton_automl.data.sources import Source
from lepton_automl.errors import ConfigError
from lepton_automl.text import printable

_MOST_FOLDERS = 1000
"""Folders beside a table in which its files are looked for."""


class Manifest(Source):
    """A row a picture or a recording, whose further columns become attributes; or a row each time.

    Columns are recognised by their names (`data.layouts.tables.COLUMN_WORDS`), tables of values
    over time by `data.layouts.series_tables`. Paths are relative to the folder of the table, or to
    `root`, and must not lead out of it.

    Parameters
    ----------
    columns : mapping of str to str, optional
        What a column holds (`path`, `label`, `split`, `group`; of values over time `recording`,
        `time`, `channels`) -> its name.
    parts : mapping of str to str, optional
        Part -> value of the split column; empty: that column is left out.
    root : Path, optional
        Folder of the files.
    window, stride : int, optional
        Of recordings, as in `data.layouts.windows.cut_recordings`, and of sound.
    rate, mels : int, optional
        Of recordings of sound, as in `data.layouts.audio_recordings.cut_audio`.
    band_mean : str, optional
        Likewise.
    skip_corrupt : bool
        Whether files that are not there are left out; those of pictures when they are read.
    """

    uses = frozenset(
        {"columns", "parts", "root", "window", "stride", "rate", "mels", "band_mean"}
        | {"skip_corrupt"}
    )

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        parts: Mapping[str, str] | None = None,
        root: Path | None = None,
        window: int | None = None,
        stride: int | None = None,
        skip_corrupt: bool = False,
        rate: int | None = None,
        mels: int | None = None,
        band_mean: str | None = None,
    ) -> None:
        self._sound = {"--rate": rate, "--mels": mels, "--band-mean": band_mean}
        self._audio = AudioOptions(window, stride, rate, mels, band_mean, skip_corrupt)
        self._columns, self._parts, self._root = columns, parts, root
        self._skip_corrupt = skip_corrupt
        self._window, self._stride = window, stride

    def accepts(self, data: str) -> bool:
        path = Path(data)
        return path.suffix.lower() in TABLE_SUFFIXES and path.is_file() and not is_ucr_file(path)

    def read(self, data: str) -> Samples:
        path = Path(data)
        if self._root is not None and not self._root.is_dir():
            raise ConfigError(f"--root {self._root} is not a folder", fix="give a folder")
        table = read_table(path)
        if (series := series_roles(table, self._columns)) is not None:
            self._refuse_sound("a table of values")
            return self._read_series(data, table, series)
        table, roles, decision = find_roles(table, self._columns)
        rows = assigned_rows(table, roles, self._parts)
        root = path.parent if self._root is None else self._root
        ids, rows, note = _different(table, roles, rows, _paths(table, roles, rows, root))
        if (inner := _in_folders(ids, root)) is not None:
            ids, note = inner, (*note, _folders_note(inner, root))
        suffix = _missing_suffix(root / ids[0])
        ids = [name + suffix for name in ids]
        files = [root / name for name in ids]
        _check_files(table, roles, rows, files, root, skip_some=self._skip_corrupt)
        if all(file.suffix.lower() in audio_files.SUFFIXES for file in files):
            return cut_audio_rows(
                table, roles, rows, files, ids, self._audio, decision=decision, notes=note
            )
        self._refuse_sound("no recordings of sound")
        if all(file.suffix.lower() in signal_files.SUFFIXES for file in files):
            return self._cut(data, table, roles, rows, files, ids, decision, note)
        refuse("--window", self._window, "a table of pictures")
        refuse("--stride", self._stride, "a table of pictures")
        return make_samples(
            table,
            roles,
            rows,
            files,
            ids,
            decisions=() if decision is None else (decision,),
            notes=note,
        )

    def _read_series(self, data: str, table: Table, roles: SeriesRoles) -> Samples:
        """Windows of a table with a row each time."""
        refuse("--root", self._root, "a table of values, not of files")
        recordings, decisions = recordings_in(table, roles, self._parts)
        samples = cut_recordings(
            data,
            recordings,
            window=self._window,
            stride=self._stride,
            channel_names=roles.channels,
        )
        made = (roles.decision, *decisions, *samples.decisions)
        return dataclasses.replace(samples, decisions=made)

    def _cut(
        self,
        data: str,
        table: Table,
        roles: Roles,
        rows: Rows,
        files: Sequence[Path],
        ids: Sequence[str],
        decision: Decision | None,
        notes: tuple[str, ...],
    ) -> Samples:
        """Windows of the recordings that the rows name, sorted by class and name."""
        places = [int(row) for row in rows.kept]
        labels = class_texts([table.columns[roles.label][row] for row in places])
        others = table.other_columns(roles)
        order = sorted(range(len(ids)), key=lambda n: (labels[n], folder_order(ids[n])))
        found, read, left_out, errors = read_recordings(
            [files[n] for n in order], skip_corrupt=self._skip_corrupt
        )
        unreadable = tuple(
            UnreadableFile(ids[order[n]], labels[order[n]], str(rows.parts[order[n]]), what)
            for n, what in errors.items()
        )
        order = [order[n] for n in found]
        check_alike([files[n] for n in order], read)
        recordings = [
            LabelledRecording(
                name=ids[n],
                values=recording.values,
                labels=labels[n],
                part=str(rows.parts[n]),
                group=table.columns[roles.group][places[n]] if roles.group else "",
                attributes=recording.attributes
                | {name: column[places[n]] for name, column in others.items()},
            )
            for n, recording in zip(order, read, strict=True)
        ]
        names = next((each.names for each in read if each.names), ())
        samples = cut_recordings(
            data, recordings, window=self._window, stride=self._stride, channel_names=names
        )
        made = (*([] if decision is None else [decision]), *rows.decisions)
        return dataclasses.replace(
            samples,
            notes=(*notes, *left_out, *rows.notes, *samples.notes),
            unreadable=unreadable,
            decisions=(*made, *samples.decisions, *time_decisions(read)),
        )

    def _refuse_sound(self, what: str) -> None:
        for option, value in self._sound.items():
            refuse(option, value, what)


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


def _in_folders(names: Sequence[str], root: Path) -> list[str] | None:
    """Paths of files that lie in several folders of `root`, each name in one; else None.

    Names may lack their suffix. Where all are in one folder, `--root` has to say so.
    """
    if any("/" in name for name in names) or _is_there(root / names[0]):
        return None
    places: dict[str, list[str]] = {name: [] for name in names}
    try:
        folders = sorted(each.name for each in os.scandir(root) if each.is_dir())[:_MOST_FOLDERS]
        for folder in folders:
            for file in os.listdir(root / folder):  # noqa: PTH208 (a million names)
                for name in {file, os.path.splitext(file)[0]} & places.keys():  # noqa: PTH122
                    places[name].append(f"{folder}/{file}")
    except OSError:
        return None
    if any(len(found) != 1 for found in places.values()):
        return None
    found = [places[name][0] for name in names]
    return found if len({path.partition("/")[0] for path in found}) > 1 else None


def _folders_note(paths: Sequence[str], root: Path) -> str:
    folders = list(dict.fromkeys(path.partition("/")[0] for path in paths))
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    return (
        f"the files are in {len(folders)} folders of {root}, each name in one of them: "
        f"{', '.join(map(printable, sorted(folders)[:3]))}{more}"
    )


def _is_there(path: Path) -> bool:
    return path.exists() or bool(_missing_suffix(path))


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


def _check_files(
    table: Table,
    roles: Roles,
    rows: Rows,
    files: Sequence[Path],
    root: Path,
    *,
    skip_some: bool,
) -> None:
    """Check that files are there; with `skip_some`, that one of them is."""
    missing = [n for n, file in enumerate(files) if not os.path.exists(file)]  # noqa: PTH110
    if not missing or (skip_some and len(missing) < len(files)):
        return
    file = files[missing[0]]
    where = _where_it_is(file.relative_to(root), root)
    if where is None:
        fix = (
            "correct the paths, leave these rows out (--skip-corrupt does), or name the folder "
            "that they start from with --root"
        )
    else:
        found = [_is_there(where / files[n].relative_to(root)) for n in missing]
        fix = f"give --root {where}"
        if not all(found):
            fix = (
                f"{sum(found)} of them are in {where}: move all into one folder and name it with "
                "--root, or write the folder of each into the table"
            )
    raise table.error(
        [int(rows.kept[n]) for n in missing],
        f"{len(missing)} of {len(files)} files are not there, such as {file}, by the column "
        f"{roles.path!r}",
        fix,
    )


def _where_it_is(path: Path, root: Path) -> Path | None:
    """A folder below or beside that of the table in which the file is; None if none is found."""
    for place in (root, root.absolute().parent):
        try:
            with os.scandir(place) as entries:
                for _, entry in zip(range(1000), entries, strict=False):
                    folder = (root if place == root else root / "..") / entry.name
                    if entry.is_dir() and _is_there(folder / path):
                        return Path(os.path.normpath(folder))
        except OSError:
            continue
    return None
