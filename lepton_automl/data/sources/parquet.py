"""Parquet files as the Hugging Face Hub stores pictures and recordings of sound.

They lie in `data/train-00000-of-00002.parquet`.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.files import machine_error, no_scratch_error
from lepton_automl.core.limited_process import LimitedProcess, Message, ProcessLimits
from lepton_automl.core.scratch import Scratch
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.data.audio_files import SUFFIXES as AUDIO_SUFFIXES
from lepton_automl.data.layouts.audio_tables import (
    AUDIO_OPTIONS,
    AudioOptions,
    cut_audio_rows,
)
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.named_arrays import MemoryArrays, converted, read_raw
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.layouts.tables import (
    COLUMN_WORDS,
    Roles,
    Rows,
    Table,
    assigned_rows,
    find_roles,
    make_samples,
)
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.data.samples import RawSamples, Samples, numbered
from lepton_automl.data.sources import Source
from lepton_automl.errors import ConfigError, DataError, MachineError

# Memory of the system's allocator counts as it is taken; the one of Arrow reserves a gigabyte.
PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "import os; os.environ['ARROW_DEFAULT_MEMORY_POOL'] = 'system'; "
    "from lepton_automl.data.parquet_process import main; main()"
)
"""Of the child process that parses the files (`data.parquet_process`)."""
FIX = "write the file again, for instance with pyarrow or datasets, as image and label columns"
"""The way out where a file cannot be read."""
_SHARD = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+)?([-_.][0-9a-f]{16})?$")
"""End of the name of a file of many: `-00000-of-00002`, also with a hash."""
_SPLIT = "split"
"""Column with the parts that names of files and folders say."""
_MOST_FILES, _MOST_ROWS, _DEPTH = 10_000, 2_000_000, 4
_LONGEST = 4096
"""Characters of a text; a column with longer ones is prose and no attribute."""
_MOST_BYTES = 8 << 30
"""Bytes of array columns, which are held in memory."""
_COPIED_FROM, _MOST_TIMES = 256 << 20, 200
"""From so many bytes on, picture files that are copied from a table have at most this many times
the bytes of its files: a dictionary can name one in each of two million rows."""
_BASE_BYTES, _BYTES_PER_BYTE = 2 << 30, 4
_SECONDS, _SECONDS_PER_BYTE = 20.0, 1e-7
"""Memory and processor time for reading rows: a base, and for each byte of the file."""
_KEYS = {"train": "train", "validation": "val", "test": "test", "": ""}

Array = NDArray[Any]


class Parquet(Source):
    """A `.parquet` file, or a folder of them; the files are shards, and parts by their names.

    A column of pictures holds files (bytes, or a struct of bytes and path), or arrays of one shape,
    which are read as those of an `.npz` file; a column of labels numbers or texts. Files may be
    recordings of sound in place of pictures. Names of classes are those that Hugging Face stores in
    the metadata. Parquet is parsed in a child process with limits (`core.limited_process`), and the
    files in it copied to a temporary folder, so that single ones can be read.

    Parameters
    ----------
    columns : mapping of str to str, optional
        What a column holds (`image`, `label`, `split`, `group`) -> its name.
    parts : mapping of str to str, optional
        Part -> value of the split column, or name of the split; empty: there are no parts.
    channel_axis : {"first", "last"}, optional
        Where the channels of arrays are; None: by the shape.
    **audio
        Fields of `data.layouts.audio_tables.AudioOptions`, for recordings of sound.
    """

    uses = frozenset({"columns", "parts", "channel_axis"}) | AUDIO_OPTIONS

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        parts: Mapping[str, str] | None = None,
        channel_axis: str | None = None,
        **audio: Any,
    ) -> None:
        self._columns, self._parts, self._channel_axis = dict(columns or {}), parts, channel_axis
        self._audio = AudioOptions(**audio)

    def accepts(self, data: str) -> bool:
        is_file = data.lower().endswith(".parquet") and Path(data).is_file()
        return is_file or folder_kind(data) == "parquet"

    def read(self, data: str) -> Samples:
        return converted(data, self.read_raw(data))

    def read_raw(self, data: str) -> RawSamples | Samples:
        if find_spec("pyarrow") is None:
            raise MachineError(
                f"{data}: Parquet files are read with pyarrow, which is not installed here",
                fix="pip install 'lepton-automl[parquet]'",
            )
        files = _files(Path(data))
        with LimitedProcess(PROGRAM) as process:
            shards = [_Shard(process, path) for path in files]
            stated = {"image": "", **self._columns}
            column = _picture_column(data, shards, stated.pop("image"))
            found = _read(data, shards, column)
        table = Table(data, found.texts, found.places)
        table, roles, decision = find_roles(table, stated, needs_path=False)
        if (names := _class_names(shards, roles.label)) is not None:
            known = {roles.label: _without_missing(table.columns[roles.label])}
            table = Table(data, {**table.columns, **known}, table.places)
        rows = assigned_rows(table, roles, self._parts)
        decisions = () if decision is None else (decision,)
        is_sound = _are_sound(shards[0].features.get(column), found.pictures)
        if not is_sound:
            self._audio.refuse("no recordings of sound")
        if found.blocks:
            return self._arrays(data, found, table, roles, rows, names)
        if self._channel_axis is not None:
            raise ConfigError(
                f"--channel-axis {self._channel_axis} has no effect: the column {column!r} of "
                f"{data} holds files",
                fix="leave it out",
            )
        pictures = [found.pictures[row] for row in rows.kept]
        ids = [picture.name for picture in pictures]
        if is_sound:
            return cut_audio_rows(
                table,
                roles,
                rows,
                pictures,
                ids,
                self._audio,
                class_names=names,
                decision=decision,
            )
        return make_samples(table, roles, rows, pictures, ids, names, decisions)

    def _arrays(
        self,
        data: str,
        found: _Content,
        table: Table,
        roles: Roles,
        rows: Rows,
        names: tuple[str, ...] | None,
    ) -> RawSamples | Samples:
        """Samples of which a column holds the values, as those of an `.npz` file."""
        values = np.concatenate(found.blocks)
        labels = [table.columns[roles.label][row].strip() for row in rows.kept]
        are_numbers = all(re.fullmatch(r"-?\d{1,18}", label) for label in labels)
        # An array holds each text in the memory of the longest.
        if are_numbers:
            y = np.array([int(label) for label in labels])
        elif names is None:
            names, y = numbered(labels)
        else:
            y = np.array([label[: 1 + max(map(len, names))] for label in labels])
        arrays: dict[str, Array] = {} if names is None else {"class_names": np.array(names)}
        groups: list[str] = []
        if roles.group:
            column = enumerate(table.columns[roles.group])
            keys = [f"={text}" if text else f"#{row}" for row, text in column]
            groups = [f"{n:010}" for n in numbered(keys)[1]]
        for part in dict.fromkeys(rows.parts.tolist()):
            places, end = rows.parts == part, f"_{_KEYS[part]}" if part else ""
            arrays[f"x{end}"], arrays[f"y{end}"] = values[rows.kept[places]], y[places]
            if roles.group:
                arrays[f"group{end}"] = np.array(groups)[rows.kept[places]]
        return read_raw(data, MemoryArrays(arrays), None, self._channel_axis, notes=rows.notes)


def _class_names(shards: Sequence[_Shard], label: str) -> tuple[str, ...] | None:
    """Names of the classes in the metadata of Hugging Face; None where there are none."""
    found = []
    for shard in shards:
        feature = shard.features.get(label)
        names = feature.get("names") if isinstance(feature, dict) else None
        found.append(tuple(map(str, names)) if isinstance(names, list) and names else None)
    if len(set(found)) > 1:
        raise DataError(
            f"{shards[0].path} and others name different classes in the column {label!r}",
            fix="give files of one data set",
        )
    return found[0]


def _without_missing(texts: Sequence[str]) -> list[str]:
    """Labels, of which -1 stands for a label that is kept back, as in test parts of the Hub."""
    return ["" if text == "-1" else text for text in texts]


def _files(path: Path) -> list[Path]:
    """The Parquet files of a folder and its sub-folders, in the order of their names.

    Raises
    ------
    DataError
        If they belong to several configurations of a data set, or are too many.
    """
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for folder, names, files in os.walk(path):
        inner = Path(folder)
        names[:] = [name for name in names if not name.startswith(".")]
        if len(inner.relative_to(path).parts) >= _DEPTH:
            names.clear()
        found += [inner / name for name in files if name.lower().endswith(".parquet")]
    if len(found) > _MOST_FILES:
        raise DataError(
            f"{path} holds {len(found)} Parquet files, at most {_MOST_FILES} are read",
            fix="give a folder of one data set",
        )
    configurations = {_configuration(path, file): file.parent for file in found}
    if len(configurations) > 1:
        raise DataError(
            f"{path} holds several data sets: {', '.join(sorted(configurations))}",
            fix=f"give one of them, such as {min(configurations.values())}",
        )
    return sorted(found)


def _configuration(top: Path, file: Path) -> str:
    """Folders of a file that name no part: Hugging Face has one a configuration."""
    folders = file.relative_to(top).parts[:-1]
    return "/".join(name for name in folders if name != "data" and not parts_named([name]))


def _split_name(top: Path, file: Path) -> str:
    """What the name of a file, or else of its folder, says of its split; may be empty."""
    name = _SHARD.sub("", file.stem)
    if parts_named([name]) or file == top or file.parent == top:
        return name
    folder = file.parent.name
    return folder if parts_named([folder]) else name


class _Shard:
    """A Parquet file, which the process reads.

    Raises
    ------
    DataError
        On construction, if it cannot be read.
    """

    def __init__(self, process: LimitedProcess, path: Path) -> None:
        self.path, self._process = path, process
        self.size = path.stat().st_size if path.is_file() else 0
        seconds = _SECONDS + _SECONDS_PER_BYTE * self.size
        memory = _BASE_BYTES + _BYTES_PER_BYTE * self.size
        self._limits = ProcessLimits(memory, seconds, 60 + 10 * seconds)
        # The process may have been started in another working directory.
        answer = self._ask({"path": os.path.abspath(path)})  # noqa: PTH100  Links stay.
        self.kinds: dict[str, str] = answer.fields["kinds"]
        """Column -> what it holds: `picture`, `array`, `text`, or something that is not read."""
        self._described = answer.payload

    def _ask(self, fields: dict[str, Any]) -> Message:
        return self._process.call(fields, subject=str(self.path), fix=FIX, limits=self._limits)

    @property
    def features(self) -> Mapping[str, Any]:
        """Columns as Hugging Face describes them; empty where it does not."""
        if not self._described:
            return {}
        name = f"{self.path}: metadata of Hugging Face"
        found = untrusted_files.parse_json(self._described, name, fix=FIX, top=dict, finite=False)
        info = found.get("info")
        features = info.get("features") if isinstance(info, dict) else None
        return features if isinstance(features, dict) else {}

    def rows(self, columns: Mapping[str, str]) -> Iterator[Message]:
        """Answers with some rows each."""
        # The file is opened again: the process holds the one that was asked for last.
        self._ask({"path": os.path.abspath(self.path)})  # noqa: PTH100
        first = {"": ""}
        while (answer := self._ask({"columns": {**columns, **first}})).fields:
            first = {}
            yield answer


def _picture_column(data: str, shards: Sequence[_Shard], stated: str) -> str:
    """Name of the column of pictures or arrays, the same in all files."""
    kinds = shards[0].kinds
    for shard in shards[1:]:
        if shard.kinds != kinds:
            raise DataError(
                f"{shards[0].path} and {shard.path} have different columns", fix="give one data set"
            )
    found = {name: kind for name, kind in kinds.items() if kind in ("picture", "array")}
    if stated:
        if stated not in found:
            raise ConfigError(
                f"--columns image={stated}: {data} has no such column of pictures or arrays",
                fix=f"name one of: {', '.join(found) or 'none is there'}",
            )
        return stated
    pictures = [name for name, kind in found.items() if kind == "picture"] or list(found)
    words = COLUMN_WORDS["path"].split()
    named = [name for name in pictures if re.sub(r"[\W_]+", "", name).lower() in words]
    pictures = named[:1] or pictures
    if len(pictures) != 1:
        raise DataError(
            f"{data}: {'no column holds' if not pictures else 'several columns hold'} pictures or "
            f"arrays; the columns are {', '.join(list(kinds)[:20])}",
            fix=f"state which: --columns image={pictures[0]}"
            if pictures
            else "give a table with a column of picture files (bytes) or of arrays of numbers",
        )
    return pictures[0]


def _are_sound(feature: object, files: Sequence[Member]) -> bool:
    """Whether a column has recordings of sound: as Hugging Face describes it, or by its files."""
    if isinstance(feature, dict) and feature.get("_type") == "Audio":
        return True
    return bool(files) and all(file.suffix.lower() in AUDIO_SUFFIXES for file in files)


@dataclass
class _Content:
    """Rows of all files."""

    texts: dict[str, list[str]]
    """Column -> a text a row."""
    places: list[str]
    """Of each row, in messages."""
    pictures: list[Member]
    blocks: list[Array]
    """Values of arrays (n, ...)."""


def _read(data: str, shards: Sequence[_Shard], column: str) -> _Content:
    kinds = shards[0].kinds
    texts = {name: "text" for name, kind in kinds.items() if kind == "text"}
    found = _Content({name: [] for name in texts}, [], [], [])
    splits: list[str] = []
    pack = _Pack() if kinds[column] == "picture" else None
    most = max(_COPIED_FROM, _MOST_TIMES * sum(shard.size for shard in shards))
    for shard in shards:
        first = len(found.places)
        for answer in shard.rows({**texts, column: kinds[column]}):
            _append(found, answer, shard.path, len(found.places) - first, pack)
            _check_size(data, found)
            _check_copied(data, pack, most)
        splits += [_split_name(Path(data), shard.path)] * (len(found.places) - first)
    if not found.places:
        raise DataError(f"{data} holds no rows", fix="give a table of labelled pictures")
    if found.pictures and not any(picture.size for picture in found.pictures):
        raise DataError(
            f"{data}: no row of the column {column!r} has the bytes of a file; it may have the "
            "paths of files that lie elsewhere",
            fix="write the table again with the files in it, in datasets: data.with_format('arrow')"
            ".map(datasets.table.embed_table_storage, batched=True); or write a table (.csv) of "
            "paths and labels",
        )
    if len({block.shape[1:] for block in found.blocks}) > 1:
        raise DataError(f"{data}: arrays of {column!r} have several shapes", fix="give one shape")
    for name in [n for n, values in found.texts.items() if max(map(len, values)) > _LONGEST]:
        del found.texts[name]
    if parts_named(splits) and _SPLIT not in found.texts:
        found.texts[_SPLIT] = splits
    return found


def _append(found: _Content, answer: Message, path: Path, first: int, pack: _Pack | None) -> None:
    """Add the rows of an answer, of which the first is row `first` of its file."""
    rows = range(first, first + answer.fields["rows"])
    found.places += [f"row {row} of {path.name}" for row in rows]
    for name, values in answer.fields["texts"].items():
        found.texts[name] += values
    if pack is None:
        block = np.frombuffer(answer.payload, answer.fields["dtype"])
        found.blocks.append(block.reshape(answer.fields["shape"]))
    else:
        found.pictures += pack.add(answer, path.stem, first)


def _check_size(data: str, found: _Content) -> None:
    if len(found.places) > _MOST_ROWS:
        raise DataError(
            f"{data} has more than {_MOST_ROWS} rows, which is the most that is read",
            fix="give a part of the files",
        )
    if (size := sum(block.nbytes for block in found.blocks)) > _MOST_BYTES:
        raise DataError(
            f"{data} holds arrays of more than {size >> 30} GiB, at most {_MOST_BYTES >> 30} GiB "
            "are read into memory",
            fix="store pictures as PNG or JPEG files in the column, or give a part of the files",
        )


_SUFFIXES = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
}
"""Start of a file -> suffix in its name."""


_UNUSUAL = re.compile(r"[^\w.+-]")
"""What is replaced in the names of files, which may be any text."""


def _suffix(content: bytes) -> str:
    if content[:4] == b"RIFF":
        return ".wav" if content[8:12] == b"WAVE" else ""
    return next((end for magic, end in _SUFFIXES.items() if content.startswith(magic)), "")


@dataclass(frozen=True)
class _Row(Member):
    """The picture of a row, in the temporary file of a pack."""

    archive: Path = field(compare=False)
    pack: _Pack | None = field(default=None, compare=False, repr=False)
    """Keeps the file as long as this is there."""

    def __str__(self) -> str:
        what = "recording" if self.suffix.lower() in AUDIO_SUFFIXES else "picture"
        return f"the {what} {self.name}"


def _check_copied(data: str, pack: _Pack | None, most: int) -> None:
    if pack is not None and pack.size > most:
        raise DataError(
            f"{data} holds picture files of more than {most >> 20} MiB, {_MOST_TIMES} times the "
            "size of the table",
            fix="write a table in which no picture stands in many rows",
        )


class _Pack:
    """A temporary file with the picture files of a table, one after the other.

    It is deleted when the last `_Row` of it is gone, and at the end of the process.
    """

    def __init__(self) -> None:
        try:
            scratch = Scratch()
        except OSError as error:
            raise machine_error(error) or no_scratch_error(error) from error
        self._finish = weakref.finalize(self, scratch.remove)
        self.path, self.size = scratch.path / "pictures", 0

    def add(self, answer: Message, shard: str, first: int) -> list[Member]:
        """Append the pictures of an answer, the first of which is row `first` of a shard."""
        with self.path.open("ab") as file:
            file.write(answer.payload)
        made: list[Member] = []
        start = 0
        for n, size in enumerate(answer.fields["sizes"]):
            suffix = _suffix(answer.payload[start : start + min(size, 12)])
            # The names of files may say a speaker or a patient, which `--group` finds in them.
            own = _UNUSUAL.sub("_", answer.fields["names"][n])
            name = f"{shard}/{first + n:06}{f'-{own}' if own else ''}"
            if not {Path(name).suffix.lower(), suffix} <= SUFFIXES and not name.endswith(suffix):
                name += suffix
            made.append(_Row(self.path, name, self.size + start, size, size, None, pack=self))
            start += size
        self.size += start
        return made
