"""`lepton run` from start to verdict, once a seed: accuracy, bytes, latency, seconds.

    python benchmarks/bench.py full_run digits --seeds 3 -- --budget 3m --jobs 1
    python benchmarks/bench.py full_run fashion_mnist.npz -- --budget 20m --max-size-kb 40

What follows `--` goes to `lepton run` as it is. Each run uses its test part once. The int8 file is
timed in the same rounds as MLPerf Tiny's ResNet-8 (random weights), because the ratio depends less
on the machine than microseconds do. CPU seconds are those of all processes of the run. With a
budget the exit status is 1 where a run took more than the larger of 5 % and 10 s beyond it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import RUNS, lepton, parser, print_table, resnet8
from lepton_automl.config import seconds as budget_seconds
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.models.random_weights import random_int8_onnx


def resnet8_ratio(file: bytes) -> float:
    """Latency of a file as a multiple of ResNet-8's, in the same rounds."""
    nets = {"file": file, "resnet8": random_int8_onnx(resnet8(), 64)}
    times = Stopwatch().measure(nets, rounds=25, seconds=0.5)
    return times["file"].ratio / times["resnet8"].ratio


def one(data: str, seed: int, out: Path, options: list[str]) -> dict[str, Any]:
    """One whole run: what it prints as JSON, its seconds and its CPU seconds.

    Raises
    ------
    SystemExit
        If the run ended without a verdict.
    """
    place = str(out / f"{Path(data).stem}-{seed}")
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        lepton("run", data, "--seed", str(seed), "--json", "--out", place, *options),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = json.loads(done.stdout)
    if "verdict" not in found:
        raise SystemExit(done.returncode)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found | {"seconds": seconds, "cpu": cpu}


def cells(seed: int, run: dict[str, Any]) -> tuple[object, ...]:
    """A row of the table."""
    int8, low, high = run["int8"], *(100 * end for end in run["int8"]["accuracy_interval"])
    ratio = resnet8_ratio(Path(run["artifact"], "model.int8.onnx").read_bytes())
    return (
        seed,
        f"{100 * int8['accuracy']:.2f} % [{low:.2f}, {high:.2f}]",
        errors(run),
        f"{100 * run['float']['accuracy']:.2f} %",
        int8["size_bytes"],
        f"{1e3 * int8['latency_ms']:.1f}",
        f"{1e3 * run['float']['latency_ms']:.1f}",
        f"{ratio:.3f}",
        f"{run['seconds']:.0f}",
        f"{run['cpu']:.0f}",
        run["verdict"],
    )


def errors(run: dict[str, Any]) -> int:
    """Wrong answers of the int8 file on the test part."""
    return round((1 - run["int8"]["accuracy"]) * run["int8"]["n_samples"])


def budget(options: list[str]) -> float | None:
    """The budget among the options, in seconds."""
    given = [after for before, after in pairwise(options) if before == "--budget"]
    return budget_seconds(given[-1]) if given else None


def main(arguments: list[str]) -> int:
    """Run every seed; a row each."""
    options = parser(__doc__, "full_run")
    options.add_argument("data")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--out", type=Path, default=RUNS / "full_run")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given, more = options.parse_args(arguments[:cut]), arguments[cut + 1 :]
    runs = [one(given.data, seed, given.out, more) for seed in range(given.seeds)]
    head = ("seed", "int8 accuracy [95 %]", "errors", "float", "bytes", "int8 us", "float us")
    head += ("times ResNet-8", "s", "CPU s", "verdict")
    print_table(head, (cells(seed, run) for seed, run in enumerate(runs)))
    samples = sum(run["int8"]["n_samples"] for run in runs)
    machine = " ".join(str(value) for value in runs[0]["machine"].values())
    print(f"\n{sum(map(errors, runs))} errors in {samples} test samples; {machine}")
    stated, used = budget(more), [run["seconds"] for run in runs]
    if stated is None:
        return 0
    allowed = stated + max(0.05 * stated, 10.0)
    print(f"{min(used):.0f} to {max(used):.0f} s of {stated:.0f} s, {allowed:.0f} s allowed")
    return int(max(used) > allowed)
