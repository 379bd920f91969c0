"""`lepton run` from start to verdict, once a seed: accuracy, bytes, latency, seconds, in a table.

    python benchmarks/whole_run.py digits --seeds 3 -- --budget 3m --jobs 1
    python benchmarks/whole_run.py fashion_mnist.npz -- --budget 20m --max-size-kb 40

What follows `--` goes to `lepton run` as it is. Each run opens its test part once. With a budget
the table says how much of it was used; beyond the larger of 5 % and 10 s the benchmark ends with 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from lepton_automl.config import seconds as budget_seconds


def main() -> None:
    """Run every seed, print a row each and the sum of the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:cut])
    rows = [one(given.data, seed, given.out, words[cut + 1 :]) for seed in range(given.seeds)]
    print("| seed | int8 accuracy [95 %] | errors | bytes | int8 us | float us | s | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(row["text"])
    errors, samples = (sum(row[key] for row in rows) for key in ("errors", "samples"))
    print(f"\n{errors} errors in {samples} test samples; {rows[0]['machine']}")
    budget = asked(words[cut + 1 :])
    if budget is not None:
        used = [row["seconds"] for row in rows]
        allowed = budget + max(0.05 * budget, 10.0)
        print(
            f"{min(used):.0f} to {max(used):.0f} s of {budget:.0f} s used, {allowed:.0f} s allowed"
        )
        sys.exit(int(max(used) > allowed))


def asked(options: list[str]) -> float | None:
    """The budget among the options, in seconds."""
    given = [after for before, after in pairwise(options) if before == "--budget"]
    return budget_seconds(given[-1]) if given else None


def one(data: str, seed: int, out: Path, options: list[str]) -> dict[str, Any]:
    """One whole run in a process of its own."""
    command = [sys.executable, "-m", "lepton_automl", "run", data, "--seed", str(seed), "--json"]
    begun = time.monotonic()
    done = subprocess.run(
        [*command, "--out", str(out / f"{Path(data).stem}-{seed}"), *options],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - begun
    found = json.loads(done.stdout)
    if "verdict" not in found:
        raise SystemExit(done.returncode)
    int8, floating = found["int8"], found["float"]
    errors = round((1 - int8["accuracy"]) * int8["n_samples"])
    low, high = (100 * end for end in int8["accuracy_interval"])
    text = (
        f"| {seed} | {100 * int8['accuracy']:.2f} % [{low:.2f}, {high:.2f}] | {errors} "
        f"| {int8['size_bytes']} | {1e3 * int8['latency_ms']:.1f} "
        f"| {1e3 * floating['latency_ms']:.1f} | {seconds:.0f} | {found['verdict']} |"
    )
    machine = " ".join(str(value) for value in found["machine"].values())
    return {
        "text": text,
        "errors": errors,
        "samples": int8["n_samples"],
        "machine": machine,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
