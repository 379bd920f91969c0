"""Tables of sensor values over time: a row each time, a column each channel.

Further columns name the recording that a row belongs to, its label, its time, and what recordings
share, such as a person.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.data.layouts.table_files import read_table
from lepton_automl.data.layouts.tables import (
    COLUMN_WORDS,
    Roles,
    Table,
    are_numbers,
    are_paths,
    checked_columns,
    class_texts,
    row_parts,
)
from lepton_automl.data.layouts.windows import LabelledRecording
from lepton_automl.data.signal_files import Windows, cut_windows, is_time_name, window_starts
from lepton_automl.data.signals import MAX_CHANNELS, to_signals
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.text import printable

_WORDS = {
    "label": "label activity class target category gesture state labelname classname activityname "
    "activityid labels",
    "recording": "recording recordingid record recordid session sessionid sequence sequenceid "
    "series seriesid trial trialid take segment segmentid execution executionid experiment "
    "experimentid run runid file filename",
    "group": "group groupid subject subjectid patient patientid person personid participant "
    "participantid user userid speaker speakerid device deviceid machine machineid",
    "split": COLUMN_WORDS["split"],
}
"""What a column holds -> names of such columns, without signs and in lower case, best first."""
_ROLES = ("label", "recording", "time", "group", "split", "channels")
_FEWEST_ROWS = 16
"""Median rows of recordings from which a table is recognised as one of values over time."""
_FEWEST_REGULAR = 256
"""Rows of a table with times in regular steps, from which it is so without recordings."""
_REGULAR = 0.9
"""Share of the steps of the times that are 0.5 to 2 times the median."""
_MOST_RECORDINGS = 100_000
_MOST_LABELS = 20
"""Different values of a column that may be labels."""
_GAP = 20
"""Median steps of the times from which a step is a gap."""


@dataclass(frozen=True)
class SeriesRoles:
    """Names of the columns of a table of values over time; empty for none."""

    label: str
    recording: str
    time: str
    group: str
    split: str
    channels: tuple[str, ...]
    evidence: str
    """What shows that it is such a table."""

    @property
    def decision(self) -> Decision:
        """What was taken for what."""
        taken = {name: getattr(self, name) for name in _ROLES[:-1]}
        shown = ", ".join(f"{role} is {printable(name)}" for role, name in taken.items() if name)
        more = ", ..." if len(self.channels) > 6 else ""
        channels = ", ".join(map(printable, self.channels[:6])) + more
        return Decision(
            name="columns",
            choice=f"values over time, a row each time: {shown}; channels are {channels}",
            evidence=self.evidence,
            certainty="inferred",
            option="--columns recording=..., time=..., label=..., channels=A+B",
        )


def series_roles(table: Table, stated: Mapping[str, str] | None) -> SeriesRoles | None:
    """The columns of a table of values over time; None where the table is not known to be one.

    It is one where `recording`, `time` or `channels` is stated; or where numbers stand under the
    same recording or group in many rows with times that grow; or where there are many rows with
    times in regular steps.

    Parameters
    ----------
    table : Table
        A table.
    stated : mapping of str to str, optional
        What a column holds -> its name, `none` for no column; channels with `+` between them.

    Raises
    ------
    DataError
        If it is one, but a column that is needed is not found.
    ConfigError
        If what is stated does not fit the table.
    """
    given = dict(stated or {})
    is_stated = any(role in given for role in ("recording", "time", "channels"))
    if not is_stated and ("path" in given or any(are_paths(table, n) for n in table.columns)):
        return None
    if is_stated:
        return known_series_roles(table, given)
    try:
        found = _found(table, given, is_stated=False)
    except (DataError, ConfigError):
        return None
    if not found.channels or not found.evidence:
        return None
    if not found.label and set(table.columns) <= {found.time, found.recording, *found.channels}:
        raise _without_label(table, found)
    return found if found.label else None


def known_series_roles(table: Table, stated: Mapping[str, str]) -> SeriesRoles:
    """The columns of a table that is known to hold values over time.

    Parameters
    ----------
    table, stated
        As in `series_roles`.

    Raises
    ------
    DataError, ConfigError
        As `series_roles`.
    """
    return _found(table, dict(stated), is_stated=True)


def check_columns(table: Table, roles: SeriesRoles, first: str) -> None:
    """Check that a table has the columns that were found in the one named `first`.

    Raises
    ------
    DataError
        Naming the first column that it lacks.
    """
    used = (roles.label, roles.time, roles.group, roles.split, *roles.channels)
    lacking = [name for name in used if name and name not in table.columns]
    if lacking:
        raise DataError(
            f"{table.name} has no column {lacking[0]!r}, {first} has",
            fix="give recordings with the same columns",
        )


def _found(table: Table, given: dict[str, str], *, is_stated: bool) -> SeriesRoles:
    channels = tuple(filter(None, given.pop("channels", "").split("+")))
    if unknown := [name for name in channels if name not in table.columns]:
        raise ConfigError(
            f"--columns channels={'+'.join(channels)}: {table.name} has no column {unknown[0]!r}",
            fix=f"give columns of {', '.join(map(printable, list(table.columns)[:10]))}",
        )
    known = checked_columns(table, given, _ROLES[:-1])
    taken: dict[str, str] = {}
    for role in ("label", "recording", "group", "split"):
        free = [n for n in table.columns if n not in (*known.values(), *taken.values(), *channels)]
        taken[role] = known[role] if role in known else _by_name(table, role, free)
    used = (*known.values(), *taken.values(), *channels)
    free = [name for name in table.columns if name not in used]
    time = known["time"] if "time" in known else _time_column(table, free)
    if not channels:
        channels = tuple(
            name
            for name in free
            if name != time
            and are_numbers(table.columns[name])
            and not (is_time_name(name) and _grows(table, name))
        )
    if is_stated:
        _check_complete(table, taken["label"], channels)
    found = SeriesRoles(
        label=taken["label"],
        recording=taken["recording"],
        time=time,
        group=taken["group"],
        split=taken["split"],
        channels=channels,
        evidence=f"names of the {len(table.columns)} columns",
    )
    if is_stated:
        return found
    return dataclasses.replace(found, evidence=_evidence(table, found))


def _check_complete(table: Table, label: str, channels: Sequence[str]) -> None:
    shown = ", ".join(map(printable, list(table.columns)[:10]))
    if not label:
        raise DataError(
            f"{table.name}: no column is named as a label; the columns are {shown}",
            fix="state which: --columns label=COLUMN",
        )
    if not channels:
        raise DataError(
            f"{table.name}: no column is left for values of a sensor; the columns are {shown}",
            fix="state which: --columns channels=A+B",
        )
    if len(channels) > MAX_CHANNELS:
        raise DataError(
            f"{table.name} has {len(channels)} columns of numbers, at most {MAX_CHANNELS} channels "
            "are read",
            fix=f"state those that matter: --columns channels={'+'.join(channels[:3])}",
        )


def _without_label(table: Table, roles: SeriesRoles) -> DataError:
    """The error for values over time of which no column is named as a label."""
    counts = {name: len(set(table.columns[name])) for name in roles.channels}
    fewest = min(counts, key=lambda name: counts[name])
    guess = fewest if counts[fewest] <= _MOST_LABELS else "COLUMN"
    shown = ", ".join(map(printable, list(table.columns)[:10]))
    return DataError(
        f"{table.name} holds values over time ({roles.evidence}), but no column is named as a "
        f"label; the columns are {shown}",
        fix=f"state which: --columns label={guess}",
    )


def _by_name(table: Table, role: str, free: Sequence[str]) -> str:
    words = _WORDS[role].split()
    plain = {name: re.sub(r"[\W_]+", "", name).lower() for name in free}
    found = sorted((words.index(word), name) for name, word in plain.items() if word in words)
    for _, name in found:
        values = set(table.columns[name])
        if role == "split" and len(values) > len(_ROLES):
            continue
        if len(values) <= max(2, len(table) // _FEWEST_ROWS):  # A number of each row is none.
            return name
    return ""


def _time_column(table: Table, free: Sequence[str]) -> str:
    named = [name for name in free if is_time_name(name)]
    return next((name for name in named if _times(table, name) is not None), "")


def _times(table: Table, name: str) -> NDArray[np.float64] | None:
    """Times of all rows as numbers; None where a text is none."""
    column = table.columns[name]
    try:
        found = np.array(column, np.float64)
    except ValueError:
        try:
            moments = [datetime.fromisoformat(text.strip()) for text in column]
        except ValueError:
            return None
        found = np.array([_seconds(moment) for moment in moments], np.float64)
    return found if np.isfinite(found).all() else None


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _grows(table: Table, name: str) -> bool:
    times = _times(table, name)
    return times is not None and bool((np.diff(times) >= 0).all())


def _rows_of(table: Table, roles: SeriesRoles) -> list[tuple[tuple[str, str], NDArray[np.int64]]]:
    """Recording and group, and their rows, in the order of their first rows."""
    columns = [table.columns[name] for name in (roles.recording, roles.group) if name]
    if not columns:
        return [(("", ""), np.arange(len(table)))]
    places: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(zip(*columns, strict=True)):
        places.setdefault(key, []).append(row)
    group = len(columns) - 1 if roles.group else None
    return [
        (
            (key[0] if roles.recording else "", "" if group is None else key[group]),
            np.array(rows, np.int64),
        )
        for key, rows in places.items()
    ]


def _evidence(table: Table, roles: SeriesRoles) -> str:
    """What shows that rows are values over time; empty where nothing does."""
    rows = [places for _, places in _rows_of(table, roles)]
    lengths = [len(places) for places in rows]
    times = _times(table, roles.time) if roles.time else None
    if times is None:
        if roles.recording and np.median(lengths) >= 2 * _FEWEST_ROWS:
            return f"{len(rows)} recordings of {min(lengths)} to {max(lengths)} rows"
        return ""
    steps = np.concatenate([np.diff(times[places]) for places in rows])
    if not len(steps):
        return ""
    middle = float(np.median(steps))
    if len(rows) > 1 and np.median(lengths) >= _FEWEST_ROWS and (steps >= 0).mean() >= _REGULAR:
        return (
            f"{roles.time} grows in {len(rows)} recordings of {min(lengths)} to {max(lengths)} rows"
        )
    is_regular = middle > 0 and ((steps >= middle / 2) & (steps <= 2 * middle)).mean() >= _REGULAR
    if is_regular and len(table) >= _FEWEST_REGULAR:
        return f"{roles.time} grows in regular steps in {len(table):,} rows"
    return ""


def recordings_in(
    table: Table, roles: SeriesRoles, parts: Mapping[str, str] | None = None, name: str = ""
) -> tuple[list[LabelledRecording], tuple[Decision, ...]]:
    """The recordings in a table, and what was decided of them.

    Parameters
    ----------
    table : Table
        A table.
    roles : SeriesRoles
        Its columns.
    parts : mapping of str to str, optional
        Part -> value of the column of the parts; empty: the column is left out.
    name : str
        Of the recording where no column names recordings; else what stands before their names.

    Raises
    ------
    DataError
        If a value is not a number.
    ConfigError
        If `parts` does not fit.
    """
    row_part, decisions = row_parts(table, Roles(split=roles.split), parts)
    rows_of = _rows_of(table, roles)
    if len(rows_of) > _MOST_RECORDINGS:
        names = " and ".join(filter(None, (roles.recording, roles.group)))
        raise DataError(
            f"{table.name}: the column {names!r} names {len(rows_of)} recordings in {len(table)} "
            f"rows, at most {_MOST_RECORDINGS} are read",
            fix="name the column that is the same in all rows of a recording: --columns "
            "recording=COLUMN",
        )
    values = np.stack([_numbers(table, channel) for channel in roles.channels], axis=1)
    labels = class_texts(table.columns[roles.label]) if roles.label else [""] * len(table)
    if bad := [n for n, text in enumerate(labels) if not text.isprintable()]:
        raise table.error(
            bad, f"the label {labels[bad[0]]!r} has characters that cannot be shown", "correct it"
        )
    times = _times(table, roles.time) if roles.time else None
    used = (roles.label, roles.split, *roles.channels)
    others = {key: column for key, column in table.columns.items() if key and key not in used}
    found, gaps = [], 0
    for (recording, group), rows in rows_of:
        breaks = () if times is None else tuple(_breaks(times[rows]))
        gaps += len(breaks)
        own_labels = [labels[row] for row in rows]
        own_parts = row_part[rows].tolist()
        found.append(
            LabelledRecording(
                name=_named(name, recording, group),
                values=values[rows],
                labels=_one(own_labels),
                part=_one(own_parts),
                group=f"{group}" if roles.group else "",
                attributes={key: [column[row] for row in rows] for key, column in others.items()},
                breaks=breaks,
            )
        )
    return found, (*decisions, *_gap_decision(roles, gaps))


def read_several(
    path: Path, length: int, channels: Sequence[str], stride: int = 0
) -> list[tuple[str, Windows]] | None:
    """Windows of each recording in a table whose rows name several.

    Recordings without a whole window are left out.

    Parameters
    ----------
    path : Path
        A file; only `.csv` and `.tsv` are such tables.
    length : int
        Of a window.
    channels : sequence of str
        Names of the columns that are read.
    stride : int
        Values from the start of one window to the next; 0: half a window.

    Returns
    -------
    list of (str, Windows) or None
        Names of recordings and their windows. None where the file is something else: it lacks a
        column, or names fewer than two recordings.

    Raises
    ------
    DataError
        If a value is not a number, or no recording has a whole window.
    """
    if path.suffix.lower() not in (".csv", ".tsv") or not channels:
        return None
    try:
        table = read_table(path)
    except DataError:
        return None  # Of recordings, messages are those of `signal_files`.
    roles = _unlabelled(table, channels)
    if roles is None or len(_rows_of(table, roles)) < 2:
        return None
    found = []
    for each in recordings_in(table, roles)[0]:
        starts = [
            first + n
            for first, end in each.pieces()
            for n in window_starts(end - first, length, stride or max(1, length // 2))
        ]
        if starts:
            what = f"{path}: {each.name}"
            whole = to_signals(what, each.values[None], "channels last")[0]
            found.append((each.name, cut_windows(what, whole, starts, length)))
    if not found:
        raise DataError(
            f"{path}: no recording has {length} rows, a window of the net",
            fix="give longer recordings",
        )
    return found


def _unlabelled(table: Table, channels: Sequence[str]) -> SeriesRoles | None:
    """The columns of a table that needs no labels; None where it lacks a channel."""
    if not set(channels) <= table.columns.keys():
        return None
    taken: dict[str, str] = {}
    for role in ("recording", "group"):
        free = [n for n in table.columns if n not in (*channels, *taken.values())]
        taken[role] = _by_name(table, role, free)
    free = [n for n in table.columns if n not in (*channels, *taken.values())]
    return SeriesRoles(
        label="",
        recording=taken["recording"],
        time=_time_column(table, free),
        group=taken["group"],
        split="",
        channels=tuple(channels),
        evidence="",
    )


def _named(name: str, recording: str, group: str) -> str:
    texts = [text for text in (name, group, recording) if text]
    return " ".join(texts) or "rows"


def _one(texts: list[str]) -> str | list[str]:
    """The text that all are equal to; else the texts."""
    return texts[0] if len(set(texts)) == 1 else texts


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    column = table.columns[name]
    try:
        return np.array(column, np.float64)
    except ValueError:
        bad = list(_not_numbers(column))
        raise table.error(
            bad,
            f"{column[bad[0]]!r:.60} in the column {name!r} is not a number",
            "fill or remove these rows, or leave the column out: --columns channels=A+B names "
            "those that are read",
        ) from None


def _not_numbers(column: Sequence[str]) -> Iterator[int]:
    for row, text in enumerate(column):
        try:
            float(text)
        except ValueError:
            yield row


def _breaks(times: NDArray[np.float64]) -> list[int]:
    """Rows before which time falls, or is missing."""
    steps = np.diff(times)
    forward = steps[steps > 0]
    most = _GAP * float(np.median(forward)) if len(forward) else np.inf
    return (np.flatnonzero((steps < 0) | (steps > most)) + 1).tolist()


def _gap_decision(roles: SeriesRoles, gaps: int) -> Iterator[Decision]:
    if gaps:
        yield Decision(
            name="gaps",
            choice=f"no window crosses the {gaps} places where {printable(roles.time)} falls or "
            "leaves a gap",
            evidence=f"steps below 0, or above {_GAP} times the median step of the recording",
            certainty="inferred",
            option="--columns time=none",
        )
