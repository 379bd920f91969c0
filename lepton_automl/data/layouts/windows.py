"""Cut recordings with labels into windows, the samples of nets for signals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Decision
from lepton_automl.data.layouts.tables import ordered_names
from lepton_automl.data.samples import Samples, numbered
from lepton_automl.data.signal_files import window_starts
from lepton_automl.data.signals import MAX_CHANNELS, to_signals, type_of_signals
from lepton_automl.errors import ConfigError, DataError

_WINDOW = 128
"""Values of a window where recordings differ in length and none is stated."""
_MOST_WHOLE = 4096
"""Values up to which recordings of one length are taken whole."""
_LEFT_OUT = 0.05
"""Share of the recordings that may be shorter than a window of a length that is not stated."""
_MAJORITY = 0.75
"""Share of the rows of a window that have its label."""


@dataclass(frozen=True, eq=False)
class LabelledRecording:
    """Values over time with one label, or a label for each row."""

    name: str
    """In messages and in names of windows."""
    values: NDArray[Any]
    """(length, channels), of any numeric type."""
    labels: str | Sequence[str]
    """Of the recording, or of each row; empty where a row has none."""
    part: str | Sequence[str] = ""
    """`train`, `validation`, `test` or empty, of the recording or of each row."""
    group: str = ""
    """Recordings of one group stay in one part; empty: the recording is a group of its own."""
    attributes: Mapping[str, str | Sequence[str] | NDArray[np.float64]] = field(
        default_factory=dict
    )
    """Further columns: a text, or one for each row, of which a window has that of its last row."""
    breaks: tuple[int, ...] = ()
    """Rows before which time is missing: no window crosses them."""

    def pieces(self) -> list[tuple[int, int]]:
        """First row and end of each piece without a break."""
        return list(itertools.pairwise((0, *self.breaks, len(self.values))))


@dataclass(frozen=True)
class _Window:
    recording: int
    start: int
    label: str
    part: str


def cut_recordings(
    data: str,
    recordings: Sequence[LabelledRecording],
    *,
    window: int | None,
    stride: int | None,
    channel_names: tuple[str, ...] = (),
) -> Samples:
    """Windows of all recordings as samples; those of one recording or group stay together.

    Parameters
    ----------
    data : str
        Name of the data in messages.
    recordings : sequence of LabelledRecording
        At least one, with equally many channels.
    window, stride : int, optional
        Values of a window, and from the start of one to the next. None: whole recordings where all
        have one length and one label, else 128 or what 95 % of the recordings hold; half a window.
    channel_names : tuple of str
        Of the channels; empty where they have none.

    Raises
    ------
    DataError
        If values are not finite, there are too many channels, or no window has a label.
    ConfigError
        If the window is longer than all recordings.
    """
    channels = recordings[0].values.shape[1]
    if channels > MAX_CHANNELS:
        raise DataError(
            f"{data}: {recordings[0].name} has {channels} channels, at most {MAX_CHANNELS} are "
            "read",
            fix="keep the columns that matter; in a table: --columns channels=A+B+C",
        )
    length, step, decisions = _choose_window(recordings, window, stride)
    found, mixed = _windows(recordings, length, step)
    if not found:
        raise _no_windows(data, recordings, length, len(mixed), is_stated=window is not None)
    names = ordered_names({each.label for each in found})
    counts = np.bincount([each.recording for each in found], minlength=len(recordings))
    numbers = np.array([each.recording for each in found], np.int64)
    parts = np.array([each.part for each in found], "<U10")
    starts = np.array([each.start for each in found], np.int64)
    pairs = {(each.recording, each.label) for each in found}
    is_single = len(pairs) == len(np.unique(numbers))
    if mixed:
        decisions += (_majority_decision(len(mixed), len(found)),)
    place = {name: n for n, name in enumerate(names)}
    return Samples(
        pictures=_values(recordings, found, length),
        labels=np.array([place[each.label] for each in found], np.int64),
        class_names=tuple(names),
        ids=tuple(_name(recordings[each.recording], each.start, length, counts) for each in found),
        parts=parts if (parts != "").any() else None,
        groups=_groups(recordings, numbers),
        recordings=numbers if is_single and counts.max() > 1 else None,
        spans=np.stack([numbers, starts, starts + length], axis=1),
        attributes=_attributes(recordings, found, length),
        # Columns of one name cannot be found by it.
        channel_names=channel_names if len(set(channel_names)) == len(channel_names) else (),
        # Of recordings of one window each, as of arrays of windows, nothing says it.
        window_stride=0 if stride is None and counts.max() == 1 else step,
        value_type=type_of_signals(each.values for each in recordings),
        notes=_notes(recordings, counts, length),
        decisions=decisions,
    )


def _choose_window(
    recordings: Sequence[LabelledRecording], window: int | None, stride: int | None
) -> tuple[int, int, tuple[Decision, ...]]:
    """Window and stride, and the decision on them where they are not stated."""
    lengths = [end - start for each in recordings for start, end in each.pieces()]
    shortest, longest = min(lengths), max(lengths)
    length = window
    if length is None:
        one_label = all(isinstance(each.labels, str) for each in recordings)
        is_whole = shortest == longest <= _MOST_WHOLE and one_label
        length = shortest if is_whole else min(_WINDOW, _fitting(recordings))
    step = stride or max(1, length // 2)
    if window is not None and stride is not None:
        return length, step, ()
    span = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    choice = f"windows of {length} values"
    if longest > length:
        choice += f", one every {step}; those of one recording stay in one part"
    return (
        length,
        step,
        (
            Decision(
                name="windows",
                choice=choice,
                evidence=f"{len(lengths)} recordings of {span} values",
                certainty="inferred" if shortest == longest == length else "assumed",
                option="--window, --stride",
            ),
        ),
    )


def _fitting(recordings: Sequence[LabelledRecording]) -> int:
    """Values of a window that nearly all recordings hold."""
    longest = [max(end - start for start, end in each.pieces()) for each in recordings]
    return int(np.quantile(longest, _LEFT_OUT, method="lower"))


def _windows(
    recordings: Sequence[LabelledRecording], length: int, step: int
) -> tuple[list[_Window], list[_Window]]:
    """Windows with a label, and those without because their rows have several."""
    found: list[_Window] = []
    mixed: list[_Window] = []
    for number, each in enumerate(recordings):
        one_label = each.labels if isinstance(each.labels, str) else None
        names, codes = numbered([each.labels] if isinstance(each.labels, str) else each.labels)
        parts = each.part if isinstance(each.part, str) else np.array(each.part)
        for first, end in each.pieces():
            for start in (first + n for n in window_starts(end - first, length, step)):
                stop = start + length
                part = parts if isinstance(parts, str) else str(parts[start])
                if not isinstance(parts, str) and (parts[start:stop] != part).any():
                    continue  # It would share values with two parts.
                label = one_label
                if label is None:
                    counts = np.bincount(codes[start:stop])
                    best = int(counts.argmax())
                    has_one = counts[best] >= _MAJORITY * length
                    label = names[best] if has_one else None
                    if label is None:
                        mixed.append(_Window(number, start, "", part))
                if label:
                    found.append(_Window(number, start, label, part))
    return found, mixed


def _no_windows(
    data: str,
    recordings: Sequence[LabelledRecording],
    length: int,
    mixed: int,
    *,
    is_stated: bool,
) -> DataError | ConfigError:
    longest = max(end - start for each in recordings for start, end in each.pieces())
    if length > longest:
        assert is_stated, "a window that was not stated fits"
        return ConfigError(
            f"--window {length} is longer than all recordings of {data} (up to {longest})",
            fix="give a smaller number, or leave it out",
        )
    why = f"rows of {mixed} windows have several labels" if mixed else "no row has a label"
    return DataError(
        f"{data}: no window of {length} values has a label: {why}",
        fix="give a shorter --window, or labels",
    )


def _values(
    recordings: Sequence[LabelledRecording], found: Sequence[_Window], length: int
) -> NDArray[np.float32]:
    made = np.empty((len(found), length, recordings[0].values.shape[1]), np.float32)
    whole, last = np.empty(0), -1
    for place, each in enumerate(found):
        if each.recording != last:
            own, last = recordings[each.recording], each.recording
            whole = to_signals(own.name, own.values[None], "channels last")[0]
        made[place] = whole[each.start : each.start + length]
    return made


def _name(recording: LabelledRecording, start: int, length: int, counts: NDArray[np.int64]) -> str:
    is_whole = len(recording.values) == length and counts.max() == 1
    return recording.name if is_whole else f"{recording.name}[{start}:{start + length}]"


def _groups(
    recordings: Sequence[LabelledRecording], numbers: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Group of each window; None where each is one of its own."""
    keys = [f"={each.group}" if each.group else f"#{n}" for n, each in enumerate(recordings)]
    groups = numbered(keys)[1][numbers]
    return groups if len(np.unique(groups)) < len(groups) else None


def _attributes(
    recordings: Sequence[LabelledRecording], found: Sequence[_Window], length: int
) -> dict[str, tuple[str, ...]]:
    made = {}
    for name in dict.fromkeys(name for each in recordings for name in each.attributes):
        texts = []
        for window in found:
            column = recordings[window.recording].attributes.get(name, "")
            last = window.start + length - 1
            texts.append(column if isinstance(column, str) else str(column[last]))
        made[name] = tuple(texts)
    return made


def _notes(
    recordings: Sequence[LabelledRecording], counts: NDArray[np.int64], length: int
) -> tuple[str, ...]:
    short = [
        each.name
        for each in recordings
        if max(end - start for start, end in each.pieces()) < length
    ]
    notes = []
    if short:
        notes.append(
            f"{len(short)} of {len(recordings)} recordings are shorter than a window of {length} "
            f"values and left out, such as {short[0]}"
        )
    silent = int((counts == 0).sum()) - len(short)
    if silent > 0:
        notes.append(f"{silent} of {len(recordings)} recordings have no window with a label")
    return tuple(notes)


def _majority_decision(mixed: int, found: int) -> Decision:
    return Decision(
        name="labels of windows",
        choice=f"a window has the label of {_MAJORITY:.0%} or more of its rows; {mixed} windows of "
        "which no label has so many are left out",
        evidence=f"rows have labels; {mixed} of {mixed + found} windows hold a change between "
        "them, which the accuracies do not count",
        certainty="assumed",
        option="--window (shorter windows hold fewer changes)",
    )
