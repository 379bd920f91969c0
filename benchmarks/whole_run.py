"""`lepton run` from start to verdict, once a seed: accuracy, bytes, latency, seconds, in a table.

    python benchmarks/whole_run.py digits --seeds 3 -- --budget 3m --jobs 1
    python benchmarks/whole_run.py fashion_mnist.npz -- --budget 20m --max-size-kb 40

What follows `--` goes to `lepton run` as it is. Each run opens its test part once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


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
    return {"text": text, "errors": errors, "samples": int8["n_samples"], "machine": machine}


if __name__ == "__main__":
    main()
