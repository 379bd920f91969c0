"""Where mutants are put: files of a folder, of a finished run, of several files one by its name."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.mutants import trees
from tests.faults.mutants.content import Content

STOP = ("--folds", "10", "--device", "cpu")
"""Options that end a command with a message once it has read the data."""


def written(name: str, *words: str) -> Callable[[Path, Content], Sequence[str]]:
    """The mutant becomes a file; `words` are the command."""

    def place(stage: Path, content: Content) -> Sequence[str]:
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_bytes(content)
        return words

    return place


def one_of(content: Content, *choices: Sequence[str]) -> Sequence[str]:
    """A choice that depends on the content alone, so that a case can be repeated."""
    return choices[zlib.crc32(content) % len(choices)]


# Several files of one subject: the content begins with a line with the name of the file.


def named(*names: str, folder: str = "") -> Callable[[Path], list[Content]]:
    """Inputs that are files of a folder."""
    return lambda stage: [
        name.encode() + b"\n" + (stage / folder / name).read_bytes() for name in names
    ]


def split(content: Content) -> tuple[str, Content]:
    """Name and content of a file."""
    name, _, body = content.partition(b"\n")
    return name.decode(errors="replace"), body


def each_file(
    **by_suffix: Callable[[random.Random, Sequence[Content]], Content],
) -> Callable[[random.Random, Sequence[Content]], Content]:
    """Mutate a named file as its suffix says, from inputs of the same name."""

    def mutate(rng: random.Random, inputs: Sequence[Content]) -> Content:
        name = rng.choice(sorted({split(one)[0] for one in inputs}))
        own = [body for one in inputs for n, body in (split(one),) if n == name]
        change = by_suffix.get(Path(name).suffix[1:], trees.mutated_lines)
        return name.encode() + b"\n" + change(rng, own)

    return mutate


def fresh(folder: Path, whole: Path) -> Path:
    """A folder as it was made: files that are not, by size and time, are copied again."""
    made, there = _states(whole), _states(folder)
    for name in there.keys() - made.keys():
        (folder / name).unlink()
    for name, state in made.items():
        if there.get(name) != state:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(whole / name, folder / name)
    return folder


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Path in a folder -> size and time of each file."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)  # noqa: PTH118 (fast)
            info = os.stat(path)  # noqa: PTH116
            found[path[len(str(folder)) + 1 :]] = info.st_size, info.st_mtime_ns
    return found
