"""What `lepton data` reports: counts, formats, statistics, decisions and findings of a data set."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.config import RunConfig
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.data.audit.checks import Finding, SampleKey
from lepton_automl.data.audit.full_audit import (
    MAX_SAMPLES,
    Thumbnails,
    full_audit,
    make_thumbnails,
    unreadable_text,
)
from lepton_automl.data.audit.label_suspects import (
    FOLDS,
    LabelSuspects,
    Suspect,
    find_label_suspects,
)
from lepton_automl.data.dataset import Dataset, Part
from lepton_automl.errors import DataError
from lepton_automl.metrics.resolution import Resolution, resolution
from lepton_automl.pipeline import data_opening

_BLOCK = 1 << 20
"""Values that statistics are computed of at a time."""


@dataclass(frozen=True)
class PartSummary:
    """Counts, stored formats and channel statistics of a part."""

    name: str
    samples: int
    different: int
    """Samples of different content."""
    independent: int
    """Groups; samples of different content where there are no groups."""
    has_groups: bool
    class_counts: tuple[int, ...]
    """Samples of each class."""
    heights: tuple[int, int, int] | None
    """Least, median and largest, pixels; None for signals."""
    widths: tuple[int, int, int] | None
    kinds: dict[str, int]
    """Kind of file (`grey`, `colour, alpha`) -> pictures."""
    recordings: int | None
    """Recordings of sound, of which samples are windows; None for other samples."""
    shapes: dict[str, int]
    """`landscape`, `portrait`, `square` -> pictures."""
    orientations: dict[str, int]
    """EXIF orientation -> pictures."""
    channel_means: tuple[float, ...]
    """Of each channel: 0 to 255 for pictures, decoded as nets see them at 32x32 at most, and for
    the features of sound; in their own unit for signals."""
    channel_deviations: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class DataReport:
    """A data set as a run would open it, and what is to be known of it before a search."""

    dataset: Dataset
    parts: tuple[PartSummary, ...]
    resolution: Resolution
    """What the test part can show."""
    findings: tuple[Finding, ...]
    suspects: LabelSuspects
    decisions: tuple[Decision, ...]
    is_sampled: bool
    """Whether statistics and comparisons of all classes come from `MAX_SAMPLES` samples."""
    refusal: DataError | None
    """Why `run` refuses these data; None where it takes them."""

    @property
    def exit_code(self) -> int:
        """0, or that of the refusal."""
        return 0 if self.refusal is None else self.refusal.exit_code

    def name(self, key: SampleKey) -> str:
        """Name of a sample in messages."""
        return self.dataset.part(key[0]).ids[key[1]]

    def label(self, key: SampleKey) -> str:
        """Class of a sample."""
        return self.dataset.class_names[int(self.dataset.part(key[0]).labels[key[1]])]

    @cached_property
    def resolution_text(self) -> str:
        """What the test part can show, with its assumptions."""
        return resolution_text(self.resolution)

    @property
    def suspects_text(self) -> str:
        """How many labels are doubtful, and by which evidence."""
        found = self.suspects
        if not found.judged:
            return (
                f"not looked for: fewer than two classes have {FOLDS} samples that belong to "
                "different groups, so that others of the class can be compared"
            )
        if found.is_near_chance:
            return (
                f"not known: a quick classifier names the label of {found.accuracy:.1%} of "
                f"{found.judged:,} samples that it was not trained on, hardly more than by guessing"
            )
        if not found.suspects:
            return (
                f"none of {found.judged:,}, by the predictions of a quick classifier that was not "
                "trained on them"
            )
        return (
            f"{len(found.suspects):,} of {found.judged:,}, the most doubtful first: a quick "
            "classifier that was not trained on these samples names another class "
            f"({100 * found.accuracy:.1f} % of all its predictions are the label); look at them, "
            "most may be right where the classifier is poor; in brackets, from -1 to 0: the "
            "probability of the label minus that of the other class"
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        dataset = self.dataset
        made: dict[str, Any] = {
            "name": dataset.name,
            "kind": dataset.kind,
            "size": dataset.size,
            "channels": dataset.channels,
            "balanced": dataset.train.is_balanced,
            "fingerprint": dataset.fingerprint,
            "classes": dataset.class_names,
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "test_resolution": dataclasses.asdict(self.resolution),
            "is_sampled": self.is_sampled,
            "unreadable": [dataclasses.asdict(file) for file in dataset.unreadable],
            "findings": [self._finding(finding) for finding in self.findings],
            "label_suspects": {
                "judged": self.suspects.judged,
                "agreement": self.suspects.accuracy,
                "off_diagonal": self.suspects.estimated,
                "samples": [self._suspect(each) for each in self.suspects.suspects],
            },
            "decisions": [decision.document() for decision in self.decisions],
            "notes": dataset.notes,
            "exit_code": self.exit_code,
        }
        return made if self.refusal is None else made | self.refusal.document()

    def _suspect(self, suspect: Suspect) -> dict[str, Any]:
        return {
            "part": suspect.key[0],
            "id": self.name(suspect.key),
            "label": self.label(suspect.key),
            "suggested": self.dataset.class_names[suspect.suggested],
            "margin": suspect.margin,
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        return {
            "kind": finding.kind,
            "message": finding.message,
            "fix": finding.fix,
            "count": finding.count,
            "samples": [
                [{"part": key[0], "id": self.name(key), "label": self.label(key)} for key in group]
                for group in finding.samples
            ],
        }


def report_data(
    config: RunConfig, emit: Emit, check: Callable[[Dataset], None] | None = None
) -> DataReport:
    """Open data as `run` does and audit them; nothing is trained and no file is written.

    Picture files that cannot be read are left out and named in the report. `check` is called with
    the data before the audit, which may take minutes, and may raise.

    Raises
    ------
    DataError
        If the data cannot be used for another reason.
    """
    is_strict = not config.skip_corrupt
    dataset = data_opening.open_unaudited(dataclasses.replace(config, skip_corrupt=True), emit)
    if check is not None:
        check(dataset)
    emit(Event("data", "looking for copies, leaks between parts and small classes"))
    thumbs = make_thumbnails(dataset)
    findings = full_audit(dataset, thumbs)
    emit(Event("data", "looking for doubtful labels with a quick classifier"))
    suspects = find_label_suspects(dataset, thumbs, config.seed)
    decisions = dataset.decisions
    if config.channels == "auto" and dataset.kind == "pictures":
        decisions = (*decisions, data_opening.channels_decision(dataset))
    return DataReport(
        dataset=dataset,
        parts=tuple(_summary(dataset, part, thumbs) for part in dataset.parts),
        resolution=resolution(len(dataset.test), dataset.test.groups, dataset.test.strata),
        findings=findings,
        suspects=suspects,
        decisions=decisions,
        is_sampled=sum(len(part) for part in dataset.parts) > MAX_SAMPLES,
        refusal=_refusal(dataset) if is_strict and dataset.unreadable else None,
    )


def _refusal(dataset: Dataset) -> DataError:
    return DataError(
        f"{unreadable_text(dataset)}: a run refuses these data",
        fix="repair or remove these files, or give --skip-corrupt to ignore them",
    )


def _summary(dataset: Dataset, part: Part, thumbs: Thumbnails) -> PartSummary:
    formats = part.formats
    different = len(set(part.digests))
    values = thumbs.of_part(part.name) if part.signals is None else part.signals
    means, deviations = _moments(values)
    return PartSummary(
        name=part.name,
        samples=len(part),
        different=different,
        independent=different if part.groups is None else len(np.unique(part.groups)),
        has_groups=part.groups is not None,
        class_counts=tuple(np.bincount(part.labels, minlength=len(dataset.class_names)).tolist()),
        heights=None if formats is None else _spread(formats.height),
        widths=None if formats is None else _spread(formats.width),
        kinds={} if formats is None else _counted(formats.kinds.tolist()),
        recordings=_recordings(part),
        shapes={} if formats is None else _counted(formats.shapes.tolist()),
        orientations={} if formats is None else _counted(map(str, formats.orientation.tolist())),
        channel_means=tuple(means.tolist()),
        channel_deviations=tuple(deviations.tolist()),
    )


def _moments(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, the last axis of `values`.

    They are computed in float64, of a block of samples at a time: all at once would take many times
    the memory of the samples.
    """
    channels = values.shape[-1]
    count = max(1, _BLOCK // max(1, values[:1].size))
    blocks = [values[start : start + count] for start in range(0, len(values), count)]

    def flat(block: NDArray[Any]) -> NDArray[np.float64]:
        return block.reshape(-1, channels).astype(np.float64)

    size = values.size // channels
    means = np.sum([flat(block).sum(0) for block in blocks], axis=0) / size
    squares = [((flat(block) - means) ** 2).sum(0) for block in blocks]
    return means, np.sqrt(np.sum(squares, axis=0) / size)


def _recordings(part: Part) -> int | None:
    if part.audio is None:
        return None
    return len(part) if part.recordings is None else len(np.unique(part.recordings))


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def part_rows(parts: Sequence[PartSummary]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The table of the parts: name of a row and a cell each part, without empty rows."""
    rows: dict[str, Callable[[PartSummary], str]] = {
        "samples": lambda part: f"{part.samples:,}",
        "recordings": lambda part: "" if part.recordings is None else f"{part.recordings:,}",
        "different": lambda part: f"{part.different:,}",
        "independent groups": lambda part: (
            f"{part.independent:,}" if part.has_groups else "no groups"
        ),
        "height, pixels": lambda part: _spread_text(part.heights),
        "width, pixels": lambda part: _spread_text(part.widths),
        "kinds": lambda part: _counts_text(part.kinds),
        "shapes": lambda part: _counts_text(part.shapes),
        "EXIF orientation": lambda part: _counts_text(
            {_ORIENTATIONS.get(name, name): count for name, count in part.orientations.items()}
        ),
        "channel means": lambda part: ", ".join(f"{value:.4g}" for value in part.channel_means),
        "channel deviations": lambda part: ", ".join(
            f"{value:.4g}" for value in part.channel_deviations
        ),
    }
    for name, cell in rows.items():
        if any(cells := tuple(cell(part) for part in parts)):
            yield name, cells


_ORIENTATIONS = {"1": "upright", "3": "upside down", "6": "turned left", "8": "turned right"}
"""EXIF orientation -> how the stored picture lies; the mirrored ones are rare."""


def _spread_text(values: tuple[int, int, int] | None) -> str:
    if values is None:
        return ""
    low, middle, high = values
    return str(low) if low == high else f"{low} to {high}, median {middle}"


def _counts_text(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{name} {count:,}" for name, count in counts.items())


def resolution_text(found: Resolution) -> str:
    """What the test part can show, with its assumptions."""
    what = f"{found.samples} test samples"
    if found.independent < found.samples:
        what += f" in {found.independent} independent groups"
    low, high = found.interval
    shown = (
        "no drop can be told from chance"
        if found.smallest_drop is None
        else f"a drop below {found.smallest_drop:.2g} points cannot be told from chance"
    )
    return (
        f"what {what} can show: an accuracy of {100 * found.accuracy:.0f} % has the 95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f} % (Wilson); --max-drop below "
        f"{found.smallest_limit:.2g} cannot hold, even for a file that predicts as its reference "
        f"does, and {shown} (paired, one-sided 95 % bound of Tango 1998)"
    )


def suspect_text(report: DataReport, suspect: Suspect) -> str:
    """Label of a suspect, the class it may be of, and its margin."""
    suggested = report.dataset.class_names[suspect.suggested]
    return f"{report.label(suspect.key)}, perhaps {suggested} ({suspect.margin:.2f})"
