"""Sets of many pictures: seconds and memory of opening, and trainings with little memory.

    python benchmarks/bench.py large_set make SET --count 20000
    python benchmarks/bench.py large_set open SET --rounds 3
    python benchmarks/bench.py large_set train SET --max-memory 1G

`make` writes PNG files of shapes on noise in ten classes; a SET that ends in .npz is arrays. `open`
compares, a round after the other: Pillow in a loop in one process, the same in two at once (what
two cores can give), the check and the decoding of all parts in several processes, and both again
with what is known. `train` runs `lepton run` with and without the option, one after the other:
accuracy, time, peak of the resident anonymous memory of the process tree.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import parser, print_table
from lepton_automl.core.memory import anonymous_bytes

CLASSES = 10
SAMPLE = 4000
"""Files that a loop of Pillow reads."""

LOOP = """
import sys, time
import numpy as np
from PIL import Image
paths = sys.stdin.read().split("\\n")
begun, worked = time.perf_counter(), time.process_time()
for path in paths:
    with Image.open(path) as image:
        np.asarray(image.convert("RGB"))
print(time.perf_counter() - begun, time.process_time() - worked)
"""
OPEN = """
import json, resource, sys, time
from pathlib import Path
from lepton_automl.data.opening import open_dataset

def now():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)

begun, checked = now(), []

def emit(event):
    if event.message.startswith("comparing"):
        checked.append(now())

data = open_dataset(sys.argv[1], emit=emit)
opened = now()
for part in ("train", "validation", "test"):
    data.decoded_files(part, data.size, Path(sys.argv[2]))
decoded = now()
found = {"fingerprint": data.fingerprint}
for name, start, end in (
    ("check", begun, (checked or [opened])[0]),
    ("open", begun, opened),
    ("decode", opened, decoded),
):
    found |= {name: end[0] - start[0], f"{name}_cpu": end[1] - start[1]}
print(json.dumps(found))
"""
SPACE = """
doc = "one small net for pictures of 64 pixels and more"
input = { resolution = 64, example = [64, 64, 3] }
[stem]
out = 8
stride = 2
[[stage]]
layer = "conv"
out = [24, 32]
stride = 2
[[stage]]
layer = "conv"
out = 32
stride = 2
[head]
features = 0
[train]
optimizer = "adamw"
adamw = { lr = 0.004 }
batch_size = 32
epochs = 1
"""
"""Written to a file: trials of one epoch, whose batches fit into any legal memory."""


def write_picture(folder: Path, size: int, number: int) -> None:
    """A shape with as many lobes as its class has, on smooth colours with noise."""
    rng, label = np.random.default_rng(number), number % CLASSES
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) / size).reshape(2, size, size)
    (cy, cx), radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.15, 0.3)
    ground = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    pixels = np.asarray(ground.resize((size, size), Image.Resampling.BICUBIC)).astype(np.float32)
    lobes = 1 + 0.35 * np.cos((label + 1) * np.arctan2(y - cy, x - cx) + rng.uniform(0, 6))
    pixels[np.hypot(y - cy, x - cx) < radius * lobes] = rng.integers(0, 256, 3)
    pixels += rng.integers(-8, 9, pixels.shape)
    path = folder / f"class{label}" / f"{number:06}.png"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, compress_level=1)


def write_arrays(path: Path, size: int, count: int) -> None:
    """The same shapes, moved, on blocks of colour with noise, as `x` and `y` of an .npz file."""
    rng, side = np.random.default_rng(0), size // 8
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    angles = np.arctan2(y, x)
    masks = [
        np.hypot(y, x) < 0.22 * (1 + 0.35 * np.cos((label + 1) * angles))
        for label in range(CLASSES)
    ]
    noise = rng.integers(0, 17, (64 + size, 64 + size, 3), np.uint8)
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        pixels = np.lib.format.open_memmap(f"{place}/x.npy", "w+", np.uint8, (count, size, size, 3))
        for number in range(count):
            mask = np.roll(masks[number % CLASSES], rng.integers(-side, side + 1, 2), (0, 1))
            one = rng.integers(0, 239, (8, 8, 3), np.uint8).repeat(side, 0).repeat(side, 1)
            one[mask] = rng.integers(0, 239, 3)
            top, left = rng.integers(0, 64, 2)
            pixels[number] = one + noise[top : top + size, left : left + size]
        pixels.flush()
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(f"{place}/x.npy", "x.npy")
            with archive.open("y.npy", "w") as file:
                np.lib.format.write_array(file, np.arange(count) % CLASSES)


def make(given: argparse.Namespace) -> None:
    """Write the set."""
    if given.set.suffix == ".npz":
        write_arrays(given.set, given.size, given.count)
        return
    for label in range(CLASSES):
        (given.set / f"class{label}").mkdir(parents=True, exist_ok=True)
    count = range(given.count)
    with ProcessPoolExecutor() as pool:
        folders, sizes = [given.set] * given.count, [given.size] * given.count
        list(pool.map(write_picture, folders, sizes, count, chunksize=100))


def measured(command: list[str], **options: object) -> tuple[float, int, str]:
    """Seconds of a command, peak of the anonymous memory of its processes, and its output."""
    begun, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, **options)
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        out.seek(0)
        return seconds, peak, out.read()


def loops(paths: list[str], processes: int) -> tuple[float, float]:
    """Pictures a second that loops of Pillow read at once, and milliseconds of CPU a picture."""
    shares = [paths[n::processes][:SAMPLE] for n in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in shares
    ]
    for process, share in zip(running, shares, strict=True):
        process.stdin.write("\n".join(share).encode())
        process.stdin.close()
    found = [list(map(float, process.stdout.read().split())) for process in running]
    for process in running:
        process.wait()
    count = sum(map(len, shares))
    return count / max(wall for wall, _ in found), 1e3 * sum(cpu for _, cpu in found) / count


def opening(given: argparse.Namespace) -> None:
    """Compare opening with loops of Pillow."""
    paths = [str(path) for path in sorted(given.set.glob("*/*.png"))]
    rows: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        (one, cpu), (two, cpu_of_two) = loops(paths, 1), loops(paths, 2)
        with tempfile.TemporaryDirectory() as place:
            settings = os.environ | {"LEPTON_CACHE_DIR": f"{place}/known"}
            command = [sys.executable, "-c", OPEN, str(given.set), f"{place}/decoded"]
            _, peak, out = measured(command, env=settings)
            first = json.loads(out)
            time.sleep(3)  # Files of a moment ago are not remembered.
            _, _, out = measured(command, env=settings)
            again = json.loads(out)
            assert first["fingerprint"] == again["fingerprint"]
        for name, value in (
            ("one loop of Pillow, pictures/s", one),
            ("one loop, CPU ms a picture", cpu),
            ("two loops at once, times one", two / one),
            ("two loops, CPU ms a picture", cpu_of_two),
            ("check, times one loop", len(paths) / first["check"] / one),
            ("check, CPU ms a picture", 1e3 * first["check_cpu"] / len(paths)),
            ("decoding of all parts, times one loop", len(paths) / first["decode"] / one),
            ("decoding, CPU ms a picture", 1e3 * first["decode_cpu"] / len(paths)),
            ("first opening with the search for near duplicates, s", first["open"]),
            ("second opening, s", again["open"]),
            ("second opening, CPU s", again["open_cpu"]),
            ("decoded parts found again, s", again["decode"]),
            ("peak of anonymous memory, MiB", peak / 2**20),
        ):
            rows.setdefault(name, []).append(value)
    print(f"{len(paths):,} pictures, load {os.getloadavg()[0]:.1f}")
    table = [
        [name, f"{statistics.median(v):.2f}", f"{min(v):.2f} to {max(v):.2f}"]
        for name, v in rows.items()
    ]
    print_table(["", "median", "range"], table)


def training(given: argparse.Namespace) -> None:
    """Compare a run with `--max-memory` and one without."""
    table = []
    with tempfile.TemporaryDirectory(dir=given.place) as place:
        space = Path(place, "space.toml")
        space.write_text(SPACE)
        for name, options in (("all", []), ("limited", ["--max-memory", given.max_memory])):
            command = [sys.executable, "-m", "lepton_automl", "run", str(given.set), "--json"]
            command += ["--out", f"{place}/{name}", "--trials", str(given.trials), *options]
            command += ["--space", str(space), "--objective", "accuracy"]
            command += ["--group", "none", "--refit", "off"]
            seconds, peak, out = measured(command)
            figures = json.loads(out)["int8"]
            file = Path(place, name, "artifact", "model.int8.onnx").read_bytes()
            table.append(
                [
                    " ".join(options) or "no option",
                    f"{seconds:.0f}",
                    f"{peak / 2**20:.0f}",
                    f"{100 * figures['accuracy']:.2f}",
                    hashlib.sha256(file).hexdigest()[:12],
                ]
            )
            print(table[-1], flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")
    print_table(["", "seconds", "peak, MiB", "accuracy, %", "sha256 of the file"], table)


def main(arguments: list[str]) -> None:
    """Run one of the steps."""
    given = parser(__doc__, "large_set")
    steps = given.add_subparsers(required=True)
    for function, name in ((make, "make"), (opening, "open"), (training, "train")):
        step = steps.add_parser(name)
        step.add_argument("set", type=Path)
        step.set_defaults(function=function)
    steps.choices["make"].add_argument("--count", type=int, default=20_000)
    steps.choices["make"].add_argument("--size", type=int, default=128)
    steps.choices["open"].add_argument("--rounds", type=int, default=3)
    steps.choices["train"].add_argument("--max-memory", default="1G")
    steps.choices["train"].add_argument("--trials", type=int, default=2)
    steps.choices["train"].add_argument("--place", type=Path)
    found = given.parse_args(arguments)
    found.function(found)
