"""`lepton predict` of one picture and of many small ones, beside a loop of Pillow alone.

    python benchmarks/bench.py predict fashion_mnist.npz
    python benchmarks/bench.py predict fashion_mnist.npz --code . ../before --rounds 20

The test pictures of FILE become PNG files, and a net of one trial is made of it once. In each round
the versions of lepton in the folders `--code` classify one file, then all of them, in turn, and one
process decodes all of them in a loop (`Image.open`, `numpy.asarray`). Times are medians; the speed
is the time of the loop over that of `predict` beyond its start, by the clock.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import parser, print_table

_PACKAGE = Path(__file__).parents[2]
_LOOP = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image
files = sorted(Path(sys.argv[1]).iterdir())
Image.init()
begun = time.perf_counter()
for file in files:
    with Image.open(file) as image:
        np.asarray(image)
print(time.perf_counter() - begun)
"""


def main(arguments: list[str]) -> None:
    """Make files and nets where they are missing, then measure in turn."""
    options = parser(__doc__, "predict")
    options.add_argument("data", type=Path)
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--code", type=Path, nargs="+", default=[_PACKAGE])
    options.add_argument("--out", type=Path, default=Path("runs/predict"))
    given: argparse.Namespace = options.parse_args(arguments)
    out, data = given.out.resolve(), given.data.resolve()
    pictures = written(out / "pictures", data, given.count)
    codes = [path.resolve() for path in given.code]
    for number, code in enumerate(codes):
        run = out / f"run-{number}"
        if not (run / "artifact" / "manifest.json").is_file():
            short = ["--trials", "1", "--jobs", "1", "--budget", "60s", "--quiet"]
            called(code, out, "run", str(data), "--out", str(run), *short)
    one: list[list[tuple[float, float]]] = [[] for _ in codes]
    many: list[list[tuple[float, float]]] = [[] for _ in codes]
    loop = list[float]()
    for _ in range(given.rounds):
        words = [sys.executable, "-c", _LOOP, str(pictures)]
        loop.append(float(subprocess.check_output(words)))
        for number, code in enumerate(codes):
            words = ["predict", str(out / f"run-{number}")]
            one[number].append(called(code, out, *words, str(pictures / "00000.png")))
            many[number].append(called(code, out, *words, str(pictures), "--rows", "csv"))
    rows = []
    for number, code in enumerate(codes):
        start = statistics.median(wall for wall, _ in one[number])
        beyond = [wall - start for wall, _ in many[number]]
        speeds = sorted(each / took for each, took in zip(loop, beyond, strict=True))
        rows.append(
            (
                code.name,
                f"{start:.2f}",
                f"{statistics.median(cpu for _, cpu in one[number]):.2f}",
                f"{statistics.median(beyond):.2f}",
                f"{statistics.median(speeds):.2f} [{speeds[0]:.2f}, {speeds[-1]:.2f}]",
            )
        )
    print_table(("code", "one file, s", "CPU s", "all beyond it, s", "speed of the loop"), rows)
    print(f"\nthe loop alone: {statistics.median(loop):.2f} s for {given.count:,} files")


def written(folder: Path, data: Path, count: int) -> Path:
    """The test pictures of an .npz file as PNG files; they are made once."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(data) as file:
        pictures = file["x_test"][:count]
    for number, pixels in enumerate(pictures):
        path = folder / f"{number:05d}.png"
        if not path.exists():
            Image.fromarray(pixels).save(path)
    return folder


def called(code: Path, folder: Path, *words: str) -> tuple[float, float]:
    """Seconds by the clock, and of processors, of a command of the package in `code`."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    program = "from lepton_automl.__main__ import main; main()"
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu
