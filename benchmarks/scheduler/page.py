"""The tables of README.md, from `results.json`.

Command: python benchmarks/bench.py scheduler page
"""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import numpy as np
from simulate import BUDGETS, NAMES, TRIALS
from table import HERE

DRAWS = 4000
"""Of the bootstrap over seeds."""
OURS = ("lepton", "in lepton")

Row = dict[str, Any]


def quartiles(row: Row) -> str:
    """Median and quartiles of the epochs to arrive, and how many seeds never did."""
    arrived = sorted(a or math.inf for a in row["arrivals"])
    ends = [arrived[round(share * (len(arrived) - 1))] for share in (0.25, 0.5, 0.75)]
    low, middle, high = ("never" if math.isinf(end) else f"{end:.0f}" for end in ends)
    return f"{middle} ({low} to {high}) | {sum(math.isinf(a) for a in arrived)}/{len(arrived)}"


def paired(row: Row, ours: Row) -> tuple[float, float, float]:
    """Geometric mean of epochs of `row` over ours, seed by seed, with its 95 % interval.

    A search that never arrived counts with what it had spent when it ended: less than it took.
    """
    theirs, mine = _epochs(row), _epochs(ours)
    logs = np.log(theirs) - np.log(mine[: len(theirs)])
    rng = np.random.default_rng(0)
    means = logs[rng.integers(0, len(logs), (DRAWS, len(logs)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def _epochs(row: Row) -> np.ndarray:
    both = zip(row["arrivals"], row["spent"], strict=True)
    return np.array([spent if arrived is None else arrived for arrived, spent in both], float)


def arrivals(rows: list[Row]) -> None:
    """A line for every sampler and rule, the quickest first."""
    cells = {(r["table"], r["sampler"], r["rule"]): r for r in rows if "arrivals" in r}
    kinds = sorted(
        {key[1:] for key in cells if all((name, *key[1:]) in cells for name in NAMES)},
        key=lambda kind: sum(float(np.log(_epochs(cells[name, *kind])).mean()) for name in NAMES),
    )
    head = " | ".join(f"{n}: epochs (quartiles) | never | times ours (95 %)" for n in NAMES)
    print(f"| sampler | rule | {head} |\n|---|---|" + "---|---|---|" * len(NAMES))
    for kind in kinds:
        words = []
        for name in NAMES:
            ratio, low, high = paired(cells[name, *kind], cells[name, *OURS])
            words.append(f"{quartiles(cells[name, *kind])} | {ratio:.1f} ({low:.1f} to {high:.1f})")
        print(f"| {kind[0]} | {kind[1]} | {' | '.join(words)} |")


def volumes(rows: list[Row]) -> None:
    """Hypervolume at fixed budgets."""
    found = {(r["table"], (r["sampler"], r["rule"])): r["volumes"] for r in rows if "volumes" in r}
    names = sorted({kind for _, kind in found})
    columns = [f"{name}, {budget}" for name in NAMES for budget in BUDGETS]
    print(f"| sampler | rule | {' | '.join(columns)} |\n|---|---|" + "---|" * len(columns))
    for sampler in names:
        values = [
            _spread(found[name, sampler][str(budget)]) if (name, sampler) in found else ""
            for name in NAMES
            for budget in BUDGETS
        ]
        print(f"| {' | '.join(sampler)} | {' | '.join(values)} |")


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Print both."""
    rows = json.loads((HERE / "results.json").read_text())
    print(f"Epochs until arrival, at most {TRIALS} points:\n")
    arrivals(rows)
    print("\nHypervolume after so many epochs, as a share of that of all feasible points:\n")
    volumes(rows)


if __name__ == "__main__":
    main()
