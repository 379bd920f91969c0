"""`lepton bench FILES`: measure files beside each other on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_automl.artifact.format_files import main_file
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.sealed_model import locate_model
from lepton_automl.artifact.timing import FileTiming, TimedFile, time_files
from lepton_automl.core.events import Emit, Event, silent
from lepton_automl.core.machine import Machine, this_machine
from lepton_automl.core.units import counted
from lepton_automl.errors import ConfigError

_MOST_THREADS, _MOST_BATCH, _MOST_SECONDS = 1024, 4096, 600.0


@dataclass(frozen=True)
class Comparison:
    """Figures of all files, by threads and batch, and the machine they were taken on."""

    rows: tuple[FileTiming, ...]
    machine: Machine
    notes: tuple[str, ...]


def compare(
    artifacts: Sequence[Path],
    *,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1,),
    seconds: float = 1.0,
    emit: Emit = silent,
) -> Comparison:
    """Measure files in rounds that take turns, each in a child process with limits.

    Parameters
    ----------
    artifacts : sequence of Path
        Artifact folders, run folders or ONNX files, also made elsewhere. Of an artifact the files
        of all its formats are measured. The first file is what others are compared with.
    threads : sequence of int
        Threads of ONNX Runtime, each measured by itself; by default 1 and, where there are more,
        the number of cores.
    batches : sequence of int
        Samples of a call, each measured by itself.
    seconds : float
        For each file, over all rounds.
    emit : callable
        Receives an event for each measurement.

    Raises
    ------
    ConfigError
        If a number is out of its range.
    DataError
        If there is no such file.
    ArtifactError
        If a file has changed since its artifact was sealed.
    """
    counts = tuple(threads) or tuple(dict.fromkeys((1, len(os.sched_getaffinity(0)))))
    _check("--threads", counts, _MOST_THREADS)
    _check("--batch", batches, _MOST_BATCH)
    if not 0.01 <= seconds <= _MOST_SECONDS:
        raise ConfigError(
            f"--seconds {seconds:g}, the rule is 0.01 to {_MOST_SECONDS:g}", fix="leave it out"
        )
    notes: list[str] = []
    files = [file for artifact in artifacts for file in _files(artifact, notes)]
    rows: list[FileTiming] = []
    for count in counts:
        for batch in batches:
            text = f"{counted(len(files), 'file')}, {counted(count, 'thread')}, batch {batch}"
            emit(Event("bench", text))
            rows += time_files(files, threads=count, batch=batch, seconds=seconds)
    return Comparison(tuple(rows), this_machine(), tuple(notes))


def _check(option: str, values: Sequence[int], most: int) -> None:
    wrong = [value for value in values if not 1 <= value <= most]
    if wrong or not values:
        raise ConfigError(
            f"{option} {','.join(map(str, values))}, the rule is whole numbers from 1 to {most}",
            fix=f"give some, as {option} 1,2, or leave it out",
        )


def _files(artifact: Path, notes: list[str]) -> Iterator[TimedFile]:
    """The file that is given; of an artifact also its further formats, whose digests must fit."""
    model = locate_model(artifact)
    yield TimedFile(model.path, content=model.content(notes.append))
    if model.seal is None or artifact.is_file():
        return
    folder = model.seal.folder
    model.seal.manifest.content(folder, "about.json")
    about = read_provenance(folder)
    for name, paths in about.formats.items():
        for path in paths:
            model.seal.manifest.content(folder, path)
        yield TimedFile(folder / main_file(about, name), name, folder)
