"""`lepton bench --ops`: a latency table of this machine, or a kit that measures one elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lepton_automl.core import files
from lepton_automl.core.scratch import scratch_folder
from lepton_automl.cost import device_bench, latency_model
from lepton_automl.cost.latency import REFERENCE
from lepton_automl.errors import ArchError, ConfigError, MachineError
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.fused_mbconv import FusedMBConv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.search.space import draw, loader
from lepton_automl.search.space.search_space import SearchSpace

_DRAWN = 36
"""Random nets per search space."""
_FIRST_SEED = 10_000
"""Seed of the first random net; tests of a table use smaller seeds."""
_WEIGHT_LIMIT = 64
_BENCH = "bench.py"
"""File name of the program in a kit."""


def write_kit(folder: Path, spaces: Sequence[str] = ()) -> int:
    """Write the nets, their list and the program that measures them; returns the number of nets.

    Parameters
    ----------
    folder : Path
        Created if missing; the files of a kit are replaced.
    spaces : sequence of str
        Search spaces to draw random nets from, besides nets of single layers; all shipped ones
        by default.

    Raises
    ------
    ConfigError
        If the folder holds other files.
    MachineError
        If the folder cannot be written.
    """
    _check_place(folder)
    with files.wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number, (name, arch) in enumerate(
        _nets([loader.load(n) for n in spaces or loader.names()])
    ):
        file = f"net{number:03d}.onnx"
        files.write(folder / file, random_int8_onnx(arch, _WEIGHT_LIMIT))
        listed.append({"file": file, "net": name, "features": latency_model.features(arch.graph)})
    files.write(folder / device_bench.REFERENCE, random_int8_onnx(REFERENCE, _WEIGHT_LIMIT))
    program = Path(device_bench.__file__).read_text(encoding="utf-8")
    files.write(folder / _BENCH, program)
    body = {"features": latency_model.FEATURES, "nets": listed}
    files.write(folder / device_bench.NETS_FILE, json.dumps(body, indent=1) + "\n")
    return len(listed)


def bench_here(out: Path, spaces: Sequence[str] = ()) -> dict[str, object]:
    """Write a kit to a temporary folder, run its program here, and write the table to `out`.

    Raises
    ------
    MachineError
        If the program fails or the table cannot be written.
    """
    files.make_folder(out.parent)  # Before minutes are spent on measurements.
    with scratch_folder() as place:
        folder = Path(place)
        write_kit(folder, spaces)
        table = folder / device_bench.TABLE_FILE
        done = subprocess.run(
            [sys.executable, str(folder / _BENCH), "--out", str(table)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MachineError(
                f"{_BENCH} ended with {done.returncode}: {done.stderr.strip()[-300:]}",
                fix="write a kit with --kit FOLDER and run its bench.py to see the whole error",
            )
        text = table.read_text(encoding="utf-8")
    files.write(out, text)
    return dict(json.loads(text))


def _check_place(folder: Path) -> None:
    ours = {_BENCH, device_bench.NETS_FILE, device_bench.REFERENCE, device_bench.TABLE_FILE}
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in ours and not path.match("net[0-9][0-9][0-9].onnx"):
                raise ConfigError(
                    f"--kit {folder} holds {path.name}, which does not belong to a kit",
                    fix="give a new folder",
                )
            if path.suffix == ".onnx":
                path.unlink()


def _nets(spaces: Sequence[SearchSpace]) -> Iterator[tuple[str, Arch]]:
    yield from _single_layers()
    for space in spaces:
        for seed in range(_FIRST_SEED, _FIRST_SEED + _DRAWN):
            yield f"{space.name} {seed}", space.example_arch(draw.RandomTrial(seed))


def _single_layers() -> Iterator[tuple[str, Arch]]:
    """Nets dominated by one kind of layer, at several sizes and widths."""
    for size, channels in ((8, 16), (8, 32), (8, 64), (16, 16), (16, 32), (16, 48), (32, 16)):
        layers: tuple[tuple[str, Layer], ...] = (
            ("conv 3x3", Conv(channels)),
            ("conv 1x1", Conv(channels, kernel=1)),
            ("conv 5x5", Conv(channels, kernel=5, stride=2)),
            ("residual", Residual(channels)),
            ("sepconv", SepConv(channels)),
            ("mbconv", MBConv(channels, expand=2)),
            ("mbconv se", MBConv(channels, expand=2, se=4)),
            ("fused_mbconv", FusedMBConv(channels, expand=2)),
            ("max_pool", MaxPool()),
        )
        for name, layer in layers:
            count = 1 if isinstance(layer, MaxPool) else 2
            body = [Stem(channels), *[layer] * count, Head()]
            try:
                yield f"{name} {channels} at {size}x{size}", chain((size, size, 3), body, 10)
            except ArchError:
                continue
