"""Flash memory of C files: the prediction of `cost.flash` against the cross compiler, and its fit.

`bench.py flash --nets 48` writes that many random nets of the shipped spaces, half of them with any
layer and activation, compiles them by arm-none-eabi-gcc -Os for a Cortex-M4, and prints how far the
prediction is off. `--fit` fits its constants to one half and prints them, with the errors on the
other half. `--table FILE.csv` keeps what was measured.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_automl.cost.flash import constant_bytes, flash_bytes, kinds_of
from lepton_automl.models.arch import Arch
from lepton_automl.models.c_export.source import net_source
from lepton_automl.models.formats import c
from lepton_automl.models.random_weights import random_net
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from tests.helpers.nets import random_arch

SHAPES = ((32, 32, 3), (28, 28, 1), (16, 16, 5), (128, 6))
ACTIVATIONS = ("relu", "relu6", "hswish", "silu", "none")


@dataclass(frozen=True)
class Measured:
    """A net and what the cross compiler says of it."""

    name: str
    arch: Arch
    flash: int
    doubles: int
    """Additions in double arithmetic."""

    @property
    def kinds(self) -> Counter[str]:
        """Steps of each kind."""
        return kinds_of(self.arch.graph)


def nets(count: int, first: int) -> list[tuple[str, Arch]]:
    """Names and architectures, in turn of a shipped space and of any layers."""
    spaces = [space for space in map(loader.load, loader.names()) if space.kind != "audio"]
    found = []
    for seed in range(first, first + count):
        if seed % 2:
            space = spaces[seed // 2 % len(spaces)]
            found.append((f"{space.name} {seed}", space.example_arch(RandomTrial(seed))))
        else:
            shape = SHAPES[seed // 2 % len(SHAPES)]
            chosen = tuple(random.Random(seed).sample(ACTIVATIONS, 2))
            arch = random_arch(seed, input=shape, classes=3 + seed % 9, activations=chosen)
            found.append((f"any {seed}", arch))
    return found


def measure(name: str, arch: Arch, seed: int) -> Measured:
    """Compile a net with random weights."""
    source = net_source(random_net(arch, 64, seed), [str(n) for n in range(arch.classes)])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "net.h").write_text(source.header)
        Path(folder, "net.c").write_text(source.source)
        flash = c.flash_bytes(Path(folder))
    if flash is None:
        raise SystemExit(f"{c.CROSS_COMPILER} is not installed")
    return Measured(name, arch, flash, source.float_additions)


def fitted(rows: list[Measured]) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of each kind, and of a step of each kind: least squares, none below 0."""
    from scipy.optimize import nnls

    plain = [row for row in rows if not row.doubles]
    names = sorted({kind for row in plain for kind in row.kinds} - {"Linear"})
    table = [
        [*(float(k in row.kinds) for k in names), *(float(row.kinds[k]) for k in names)]
        for row in plain
    ]
    wanted = [row.flash - constant_bytes(row.arch.graph) for row in plain]
    # Relative errors count: small nets are those whose code matters.
    weights = 1 / np.array([row.flash for row in plain], float)
    found, _ = nnls(np.array(table) * weights[:, None], np.array(wanted) * weights)
    kinds, calls = found[: len(names)], found[len(names) :]
    return dict(zip(names, kinds, strict=True)), dict(zip(names, calls, strict=True))


def error_text(rows: list[Measured], predicted: list[float]) -> str:
    """Errors of predictions, nets with double arithmetic apart."""
    off = [100 * (p / row.flash - 1) for p, row in zip(predicted, rows, strict=True)]
    plain = [abs(o) for o, row in zip(off, rows, strict=True) if not row.doubles]
    others = [f"{o:+.1f}" for o, row in zip(off, rows, strict=True) if row.doubles]
    text = f"{len(plain)} nets: median {statistics.median(plain):.2f} %, most {max(plain):.2f} %"
    return text + (f"; with double arithmetic {', '.join(others)} %" if others else "")


def main(arguments: list[str]) -> int:
    """Measure, and fit if asked for."""
    parser = argparse.ArgumentParser(prog="bench.py flash", description=__doc__)
    parser.add_argument("--nets", type=int, default=48)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    rows = [
        measure(name, arch, seed)
        for seed, (name, arch) in enumerate(nets(options.nets, options.first), options.first)
    ]
    predicted = [float(flash_bytes(row.arch.graph)) for row in rows]
    sizes = [row.flash for row in rows]
    print(f"flash of {min(sizes):,} to {max(sizes):,} bytes")
    print(f"prediction of cost/flash.py, {error_text(rows, predicted)}")
    if options.table:
        with options.table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["net", "flash", "predicted", "constants", "doubles", "steps"])
            for row, guess in zip(rows, predicted, strict=True):
                kinds = " ".join(f"{kind}:{n}" for kind, n in sorted(row.kinds.items()))
                constants = constant_bytes(row.arch.graph)
                writer.writerow([row.name, row.flash, round(guess), constants, row.doubles, kinds])
    if options.fit:
        fitting, rest = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        kinds, calls = fitted(fitting)
        for kind in kinds:
            print(f"{kind:12}{kinds[kind]:8.1f} once {calls[kind]:8.1f} a step")
        for part, name in ((fitting, "fitted to"), (rest, "others")):
            guesses = [
                constant_bytes(row.arch.graph)
                + sum(kinds.get(k, 0) + calls.get(k, 0) * n for k, n in row.kinds.items())
                for row in part
            ]
            print(f"{name}, {error_text(part, guesses)}")
    return 0
