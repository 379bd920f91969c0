"""Tar shards named as in WebDataset: `000001.jpg` beside `000001.cls` or `000001.json`.

A sample may be a recording of sound, `000001.wav`, in place of a picture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_automl.core import untrusted_archives, untrusted_files
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.data.audio_files import SUFFIXES as AUDIO_SUFFIXES
from lepton_automl.data.layouts.audio_tables import (
    AUDIO_OPTIONS,
    AudioOptions,
    cut_audio_rows,
)
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.layouts.tables import (
    Table,
    assigned_rows,
    cell_text,
    find_roles,
    make_samples,
)
from lepton_automl.data.pictures.picture_files import SUFFIXES
from lepton_automl.data.samples import Samples
from lepton_automl.data.sources import Source
from lepton_automl.errors import DataError

_LABEL = "cls"
"""Suffix of a member that holds the label, and the name of the column it becomes."""
_MAX_TEXT = 64 << 10
"""Bytes of a label or of a JSON document."""
_MAX_FIELDS = 256
_FIX = "name the members KEY.jpg and KEY.cls, or KEY.json with a label, in plain .tar files"
_FIX_FOLDERS = "where its folders are the classes, unpack it with `tar -xf` and give the folder"
_FIX_GZ = (
    "of an archive of class folders: unpack it with `tar -xf` and give the folder; of a shard with "
    "KEY.jpg and KEY.cls: `gunzip` it and give the .tar file"
)


class TarShards(Source):
    """A `.tar` file, or a folder of them; members of one key are a sample.

    The label is the text in `KEY.cls` (also `KEY.NAME.cls`, where there is one), or a field of
    `KEY.json`, whose other fields become attributes. Shards are parts by their names where these
    say so: `train-000.tar`, `val-000.tar`.

    Parameters
    ----------
    columns : mapping of str to str, optional
        What a field holds (`label`, `split`, `group`) -> its name.
    parts : mapping of str to str, optional
        Part -> value of the field with the parts; empty: the shards are not parts.
    **audio
        Fields of `data.layouts.audio_tables.AudioOptions`, for shards with recordings of sound.
    """

    uses = frozenset({"columns", "parts"}) | AUDIO_OPTIONS

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        parts: Mapping[str, str] | None = None,
        **audio: Any,
    ) -> None:
        self._columns, self._parts, self._audio = columns, parts, AudioOptions(**audio)

    def accepts(self, data: str) -> bool:
        is_file = data.lower().endswith((".tar", ".tar.gz", ".tgz")) and Path(data).is_file()
        return is_file or folder_kind(data) == "tar_shards"

    def read(self, data: str) -> Samples:
        path = Path(data)
        shards = [path]
        if path.is_dir():
            shards = sorted(p for p in path.iterdir() if p.suffix.lower() == ".tar")
        parts = parts_named(shard.stem for shard in shards)
        is_divided = len(shards) > 1 and all(shard.stem in parts for shard in shards)
        pictures: list[Member] = []
        names: list[str] = []
        rows: list[dict[str, str]] = []
        for shard in shards:
            prefix = f"{shard.stem}/" if len(shards) > 1 else ""
            for key, members in _samples(shard).items():
                picture, row = _sample(shard, key, members)
                if is_divided:
                    row.setdefault("split", parts[shard.stem])
                pictures.append(picture)
                names.append(f"{prefix}{picture.name}")
                rows.append(row)
        if not rows:
            raise DataError(f"{data} holds no samples", fix=_FIX)
        columns = dict.fromkeys(name for row in rows for name in row)
        _check_columns(data, shards[0], columns)
        table = Table(data, {c: [row.get(c, "") for row in rows] for c in columns}, names)
        stated = self._columns
        if _LABEL in columns and "label" not in (stated or {}):
            stated = {**(stated or {}), "label": _LABEL}
        table, roles, decision = find_roles(table, stated, needs_path=False)
        kept = assigned_rows(table, roles, self._parts)
        files, ids = ([found[row] for row in kept.kept] for found in (pictures, names))
        if _are_sound(data, files):
            return cut_audio_rows(table, roles, kept, files, ids, self._audio, decision=decision)
        self._audio.refuse("pictures")
        made = () if decision is None else (decision,)
        return make_samples(table, roles, kept, files, ids, decisions=made)


def _are_sound(data: str, files: Sequence[Member]) -> bool:
    sound = [file.suffix.lower() in AUDIO_SUFFIXES for file in files]
    if any(sound) and not all(sound):
        raise DataError(f"{data} holds pictures and recordings of sound", fix="give one kind")
    return any(sound)


def _samples(shard: Path) -> dict[str, dict[str, Member]]:
    """Key -> suffix -> member; a key is a path up to the first dot of its file name."""
    found: dict[str, dict[str, Member]] = {}
    is_compressed = shard.suffix.lower() != ".tar"
    for member in untrusted_archives.list_tar(shard, fix=_FIX_GZ if is_compressed else _FIX):
        folder, slash, file = member.name.rpartition("/")
        key, dot, suffix = file.partition(".")
        if not key or not dot:  # Hidden files, and files without a suffix.
            continue
        group = found.setdefault(f"{folder}{slash}{key}", {})
        if group.setdefault(suffix.lower(), member) is not member:
            raise DataError(f"{shard} holds {member.name} twice", fix=_FIX)
    return found


def _check_columns(data: str, shard: Path, columns: Collection[str]) -> None:
    if len(columns) > _MAX_FIELDS:
        raise DataError(
            f"{data} has {len(columns)} different fields, at most {_MAX_FIELDS} are read",
            fix=_FIX,
        )
    if not set(columns) - {"split"}:
        key, members = next(iter(_samples(shard).items()))
        raise DataError(
            f"{shard}: no sample has a label; the members of {key} end in {_endings(members)}",
            fix=f"{_FIX}; a pickled label (.pyd, .pkl) is not read, since that can run code"
            + (f"; {_FIX_FOLDERS}" if "/" in key else ""),
        )


def _endings(members: Mapping[str, Member]) -> str:
    return ", ".join(f".{suffix}" for suffix in sorted(members))[:200]


def _sample(shard: Path, key: str, members: Mapping[str, Member]) -> tuple[Member, dict[str, str]]:
    """The picture or recording of a sample, and its texts by name."""
    suffix_of = {m: f".{suffix.rpartition('.')[2]}" for suffix, m in members.items()}
    found = [m for m, suffix in suffix_of.items() if suffix in SUFFIXES]
    found = found or [m for m, suffix in suffix_of.items() if suffix in AUDIO_SUFFIXES]
    if len(found) != 1:
        raise DataError(
            f"{shard}: the sample {key} has {len(found)} pictures or recordings among its members "
            f"{_endings(members)}; the rule is one",
            fix=f"{_FIX}; {_FIX_FOLDERS}" if "/" in key else _FIX,
        )
    row: dict[str, str] = {}
    named = [suffix for suffix in members if suffix.endswith(f".{_LABEL}")]
    if _LABEL not in members and len(named) == 1:
        members = {**members, _LABEL: members[named[0]]}
    if "json" in members:
        content = members["json"].read(max_bytes=_MAX_TEXT, fix=_FIX)
        document = untrusted_files.parse_json(content, str(members["json"]), fix=_FIX, top=dict)
        row = {name.strip(): cell_text(value) for name, value in document.items()}
        if len(row) < len(document):
            what = "two fields have one name without the spaces around it"
            raise DataError(f"{members['json']}: {what}", fix="give each field once")
        row.pop("", None)
    for suffix in (_LABEL, "txt"):
        if suffix in members and (suffix == _LABEL or not row):
            content = members[suffix].read(max_bytes=_MAX_TEXT, fix=_FIX)
            text = untrusted_files.decode_text(content, str(members[suffix]), fix=_FIX)
            row[suffix] = text.strip()
    return found[0], row
