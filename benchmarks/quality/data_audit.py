"""What `lepton data` finds of faults that are planted in a folder of pictures, and its cost.

    python benchmarks/bench.py data_audit cifar10.npz --count 20000

`--count` pictures of the training part become PNG files with a table (path, label, split, group), a
fifth of them as test part. Planted: copies of 1 % as test pictures; as many near duplicates, half
of them JPEG (quality 80), half in 1.5 times the size; 2 % of the training labels swapped; five
files that are empty, cut off or no pictures; one group with five pictures in both parts. Near
duplicates that the set has of its own count as false alarms.
"""

from __future__ import annotations

import csv
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import parser, print_table

PROGRAM = """
import atexit, os
from pathlib import Path
atexit.register(lambda: os.write(2, Path("/proc/self/status").read_bytes()))
from lepton_automl.cli.app import main
main()
"""
"""`lepton`, with its peak memory on stderr."""


def plant(source: Path, count: int, folder: Path, seed: int) -> dict[str, set[Any]]:
    """Write pictures and `table.csv`; what was planted, by kind."""
    with np.load(source) as arrays:
        x, y = arrays["x_train"][:count], arrays["y_train"][:count].reshape(-1)
    rng = np.random.default_rng(seed)
    classes = int(y.max()) + 1
    test = set(rng.permutation(count)[: count // 5].tolist())
    train = [n for n in range(count) if n not in test]
    chosen = rng.permutation(train)
    few, swapped = count // 100, chosen[: len(train) // 50].tolist()
    rest = chosen[len(swapped) :].tolist()
    copied, near, bad, grouped = rest[:few], rest[few : 2 * few], rest[-5:], rest[-10:-5]
    rows, planted = [], {kind: set() for kind in ("copies", "near", "swapped", "bad", "group")}
    for n in range(count):
        name, image = f"{n:06}.png", Image.fromarray(x[n].squeeze())
        image.save(folder / name)
        label = int(y[n])
        if n in set(swapped):
            label = (label + int(rng.integers(1, classes))) % classes
            planted["swapped"].add(name)
        group = "shared" if n in grouped else f"own{n}"
        rows.append((name, label, "test" if n in test else "train", group))
    for n in copied:
        name = f"copy{n:06}.png"
        (folder / name).write_bytes((folder / f"{n:06}.png").read_bytes())
        planted["copies"].add(name)
        rows.append((name, int(y[n]), "test", f"own{name}"))
    for place, n in enumerate(near):
        image = Image.fromarray(x[n].squeeze())
        name = f"near{n:06}" + (".jpg", ".png")[place % 2]
        if place % 2:
            image = image.resize([side * 3 // 2 for side in image.size], Image.Resampling.BICUBIC)
        image.save(folder / name, quality=80)
        planted["near"].add(name)
        rows.append((name, int(y[n]), "test", f"own{name}"))
    for n, content in zip(bad, (b"", b"\x89PNG", b"text", None, None), strict=True):
        path = folder / f"{n:06}.png"
        path.write_bytes(path.read_bytes()[:-30] if content is None else content)
        planted["bad"].add(path.name)
    leaks = sorted(test)[:5]
    rows = [(*row[:3], "shared") if row[0] in {f"{n:06}.png" for n in leaks} else row
            for row in rows]  # fmt: skip
    planted["group"] = {f"{n:06}.png" for n in leaks}
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "group"), *rows])
    return planted


def found(document: dict[str, Any], kind: str) -> set[str]:
    """Pictures of the later part that findings of a kind name."""
    return {
        group[-1]["id"]
        for finding in document["findings"]
        if finding["kind"] == kind
        for group in finding["samples"]
    }


def main(arguments: list[str]) -> int:
    """Plant, audit, compare."""
    options = parser(__doc__, "data_audit")
    options.add_argument("source", type=Path)
    options.add_argument("--count", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        planted = plant(given.source, given.count, folder, given.seed)
        start = time.perf_counter()
        words = ("data", str(folder / "table.csv"), "--json", "--quiet")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = json.loads(done.stdout)
    total = sum(part["samples"] for part in document["parts"])
    suspects = [each["id"] for each in document["label_suspects"]["samples"]]
    first = set(suspects[: total // 25])
    seen = {
        "copies": found(document, "duplicates"),
        "near": found(document, "near duplicates"),
        "bad": {file["id"] for file in document["unreadable"]},
        "group": found(document, "leaking groups"),
        "swapped": first,
    }
    rows = []
    for kind, names in planted.items():
        alarms = len(seen[kind] - names)
        share = f"{len(names & seen[kind])} of {len(names)}"
        rows.append((kind, share, str(alarms), f"{100 * alarms / total:.2f} %"))
    others = {
        sample["id"]
        for finding in document["findings"]
        if finding["kind"] == "near duplicates of another class"
        for group in finding["samples"]
        for sample in group
    }
    print_table(("fault", "found", "others named", "of all"), rows)
    print(f"near duplicates of another class: {len(others)} named, "
          f"{len(others & planted['swapped'])} of them swapped")  # fmt: skip
    print(f"agreement of the classifier with labels: {document['label_suspects']['agreement']:.3f}")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)[-1]) / 1024
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{seconds:.0f} s, {cpu:.0f} CPU s, peak {peak:.0f} MiB, exit {done.returncode}")
    return 0
