"""lepton against the hand-written Optuna script, live: same data, space, limit and wall time.

    python benchmarks/study/live.py fashion_12k.npz --space tiny --max-size-kb 30 --seeds 5
    python benchmarks/study/live.py cifar10_20k.npz --space residual --max-size-kb 124 --thirds

A pair is run in one go; what is recorded is not run again. With `--thirds` lepton also runs with a
third of the time. With `--together` both programs of a pair run at once, each on a core of its own,
so that whatever else the machine does meets both. The script knows accuracy alone, within the
limit; so does lepton here.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lepton_automl.core import files

SCRIPT = Path(__file__).parents[1] / "optuna_script.py"


def said(command: list[str], core: int | None) -> dict[str, Any]:
    """The JSON that is all a program prints, and the seconds it took; on one core if told which."""
    begun = time.monotonic()
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}") from error
    return found | {"wall": round(time.monotonic() - begun, 1)}


def lepton(given: argparse.Namespace, seed: int, seconds: float) -> dict[str, Any]:
    """`lepton run`, one worker."""
    out = given.out / f"{Path(given.data).stem}-{seconds:.0f}-{seed}"
    options = {
        "--budget": f"{seconds:.0f}s",
        "--max-size-kb": str(given.max_size_kb),
        "--space": given.space,
        "--seed": str(seed),
        "--jobs": "1",
        "--objective": "accuracy",
        "--out": str(out),
    }
    words = [word for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "lepton_automl", "run", given.data, *words, "--json"]
    found = said(command, 0 if given.together else None)
    if "verdict" not in found:
        raise SystemExit(f"lepton said {found}")
    int8 = found["int8"]
    keep = {key: int8[key] for key in ("size_bytes", "latency_ms")}
    return {"int8_accuracy": int8["accuracy"], "wall": found["wall"]} | keep


def script(given: argparse.Namespace, seed: int, seconds: float) -> dict[str, Any]:
    """The hand-written one."""
    options = ["--seconds", f"{seconds:.0f}", "--max-size-kb", str(given.max_size_kb)]
    options += ["--space", given.space, "--seed", str(seed)]
    return said([sys.executable, str(SCRIPT), given.data, *options], 1 if given.together else None)


def main() -> None:
    """Run what is missing, then print every pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--space", default="residual")
    parser.add_argument("--max-size-kb", type=float, default=124.0)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--thirds", action="store_true")
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/live"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{Path(given.data).stem}-{given.seconds:.0f}.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def record(seed: int, runs: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
        for name, run in runs.items():
            if f"{name}-{seed}" not in known:
                known[f"{name}-{seed}"] = run()
                files.write_json(path, known)

    names = ["lepton", "script"]
    for seed in range(given.seeds):
        ours = {"lepton": functools.partial(lepton, given, seed, given.seconds)}
        if given.thirds:
            ours["third"] = functools.partial(lepton, given, seed, given.seconds / 3)
        theirs = {"script": functools.partial(script, given, seed, given.seconds)}
        with ThreadPoolExecutor(2 if given.together else 1) as threads:
            for done in [threads.submit(record, seed, runs) for runs in (ours, theirs)]:
                done.result()
    show(known, given.seeds, [*names, "third"] if given.thirds else names)


def show(known: dict[str, Any], seeds: int, names: list[str]) -> None:
    """A row a seed, and the means."""
    print(f"| seed | {' | '.join(f'{n}: int8, bytes, s' for n in names)} |")
    print("|---|" + "---|" * len(names))
    for seed in range(seeds):
        rows = [known[f"{name}-{seed}"] for name in names]
        cells = [f"{r['int8_accuracy']:.2%}, {r['size_bytes']}, {r['wall']:.0f}" for r in rows]
        print(f"| {seed} | {' | '.join(cells)} |")
    means = [
        statistics.mean(known[f"{name}-{seed}"]["int8_accuracy"] for seed in range(seeds))
        for name in names
    ]
    print(f"| mean | {' | '.join(f'{mean:.2%}' for mean in means)} |")


if __name__ == "__main__":
    main()
