"""What the benchmarks share: nets and pictures to train on, rows on disk, tables."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lepton_automl.cost import targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.training.recipe import Recipe

BENCH = Path(__file__).with_name("bench.py")
RUNS = Path("runs")
"""Where results are kept between calls, relative to the working directory."""
CPU = torch.device("cpu")
CENTRED = Preprocessing(zero_point=128, scale=0.0135)
"""For random pictures: mean 0, standard deviation about 1."""
KNOWN_GOOD = {"quick": ("tiny", (28, 28), 1), "half": ("residual", (32, 32), 3)}
"""Space, picture size (rows, columns) and channels of a net that the space names."""
NETS = ("resnet8", *KNOWN_GOOD)


def parser(text: str | None, name: str) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"bench.py {name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def resnet8() -> Arch:
    """MLPerf Tiny's ResNet-8: widths 16, 32, 64; 12.5 M multiply-accumulates."""
    stages = [Residual(out=16), Residual(out=32, stride=2), Residual(out=64, stride=2)]
    return chain((32, 32, 3), [Stem(out=16), *stages, Head()], 10)


def textbook_nets() -> dict[str, Arch]:
    """Nets of 0.2 to 12.5 M multiply-accumulates by name, input (rows, columns, channels)."""
    small = [Stem(out=16), Conv(out=32, stride=2), Conv(out=32), Head()]
    middle = [Stem(out=16, stride=2), Conv(out=32), Conv(out=32, stride=2), Conv(out=48), Head()]
    return {
        "8x8x1": chain((8, 8, 1), small, 10),
        "28x28x1": chain((28, 28, 1), middle, 10),
        "resnet8": resnet8(),
    }


def known_good(
    space_name: str, candidate: str, size: tuple[int, int], channels: int, classes: int = 10
) -> tuple[Arch, Recipe]:
    """Architecture and recipe of a candidate that a search space names; without flips."""
    found = loader.load(space_name).with_fixed("flip", value=False)
    draw = RandomTrial(0, found.candidates[found.candidate_names.index(candidate)])
    return found.sample(draw, size=size, channels=channels, classes=classes, target=targets.load())


def net(name: str) -> Arch:
    """One of `NETS`, for ten classes."""
    if name not in KNOWN_GOOD:
        return resnet8()
    space_name, size, channels = KNOWN_GOOD[name]
    return known_good(space_name, name, size, channels)[0]


def noise(arch: Arch, samples: int) -> LabelledTensors:
    """Random uint8 pictures (samples, rows, columns, channels) with random labels 0 to 9."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (samples, *arch.input), dtype=np.uint8)
    return LabelledTensors(torch.from_numpy(pixels), torch.from_numpy(rng.integers(0, 10, samples)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a line that was cut off is skipped, a missing file is empty."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median with the least and the largest value."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def run_json(command: Sequence[str], core: int | None = None) -> dict[str, Any]:
    """Run a program on one thread, on one core if given; the JSON object that it prints.

    Raises
    ------
    SystemExit
        If it prints anything else.
    """
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*pinned, *command], stdout=subprocess.PIPE, text=True, check=False, env=environment
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}") from error
    return found


def lepton(*arguments: str) -> list[str]:
    """The command line of `lepton` in this Python."""
    return [sys.executable, "-m", "lepton_automl", *arguments]
