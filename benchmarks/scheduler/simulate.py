"""Samplers times stopping rules on the recorded tables, in epochs until the best is found.

Command: python benchmarks/scheduler/simulate.py --seeds 30; it goes on where it was stopped
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import samplers
from product import Search
from rules import LAST, RULES, Rule, State
from table import EPOCHS, HERE, Table, read

from lepton_automl.core import files
from lepton_automl.pipeline.context import use_one_thread
from lepton_automl.search.pareto import hypervolume

TRIALS = 100
MOST = 900
"""Epochs after which a search that has not arrived is given up."""
BUDGETS = (30, 100, 200)
"""Epochs after which the hypervolume is taken."""
WORST = 0.6
"""Accuracy that the hypervolume is counted from."""
SLOW = 10
"""Seeds of a Gaussian process."""
NAMES = ("tiny", "residual")
PRODUCT = "in lepton"
"""In place of a rule: the product's own scheduler and `--sampler`."""
STEPS = tuple(b - a for a, b in zip((0, *EPOCHS), EPOCHS, strict=False))
"""Epochs of each rung by itself."""


Enough = Callable[["list[Trained]"], bool]


@dataclass(frozen=True)
class Trained:
    """One step of a simulated search."""

    spent: int
    """Epochs in all after it."""
    number: int
    rung: int


def run(
    table: Table, sampler: samplers.Sampler, rule: Rule, trials: int, enough: Enough
) -> list[Trained]:
    """A search in one worker, until it is enough or the trials and promotions are used up."""
    state, steps = State(), list[Trained]()
    trials = min(trials, len(sampler.left))
    while not enough(steps):
        closing = len(state.seen) >= trials
        number = rule.next(state, closing=closing)
        if number is None and closing:
            break
        if number is None:
            _end_last(state, sampler)
            number = sampler.ask()
            state.seen[number] = []
        steps.append(_step(table, state, number, steps))
        sampler.see(number, state.seen[number])
    return steps


def run_product(table: Table, search: Search, trials: int, enough: Enough) -> list[Trained]:
    """The same by the product's own study and scheduler, with any sampler."""
    state, steps = State(), list[Trained]()

    def train(number: int) -> bool:
        state.seen.setdefault(number, [])
        steps.append(_step(table, state, number, steps))
        return enough(steps)

    search.run(trials, train)
    return steps


def _step(table: Table, state: State, number: int, steps: list[Trained]) -> Trained:
    rung = len(state.seen[number])
    state.seen[number].append(float(table.accuracy[number, rung]))
    return Trained((steps[-1].spent if steps else 0) + STEPS[rung], number, rung)


def _end_last(state: State, sampler: samplers.Sampler) -> None:
    last = next(reversed(state.seen), None)
    if last is not None:
        sampler.end(last, state.seen[last])


def arrival(table: Table, steps: list[Trained]) -> float:
    """Epochs until a point near to the best was trained to the end; infinite if none was."""
    for step in steps:
        if step.rung == LAST and table.accuracy[step.number, LAST] >= table.target:
            return float(step.spent)
    return math.inf


def volume(table: Table, steps: list[Trained], epochs: int) -> float:
    """Hypervolume of accuracy and doublings of size after so many epochs, in that of all points."""
    reached = {step.number: step.rung for step in steps if step.spent <= epochs}
    return _volume(table, reached) / _volume(
        table, dict.fromkeys(np.flatnonzero(table.feasible), LAST)
    )


def _volume(table: Table, reached: dict[int, int]) -> float:
    sizes = {n: math.log2(table.costs[n]["size_bytes"]) for n in reached}
    points = [(-table.accuracy[n, rung], sizes[n]) for n, rung in reached.items()]
    return hypervolume(np.array(points), np.array([-WORST, math.log2(table.limit) + 0.01]))


@dataclass(frozen=True)
class Cell:
    """A sampler with a stopping rule."""

    sampler: str
    rule: str
    costs: bool = False
    """Trades size off too, for the hypervolume."""

    @property
    def seeds(self) -> int:
        """Most seeds that it is worth."""
        return SLOW if self.sampler == "gp" else 10**6


OPTUNA = {
    "tpe": samplers.tpe,
    "tpe-warm": samplers.tpe,
    "tpe-joint": samplers.joint,
    "nsga2": samplers.genetic,
    "gp": samplers.process,
}
CELLS = (
    *(Cell("random", rule) for rule in RULES),
    *(Cell("tpe", rule) for rule in RULES),
    *(Cell("evolution", rule) for rule in ("none", "median", "asha")),
    *(Cell("tpe-joint", rule) for rule in ("median", "asha")),
    *(Cell("tpe-warm", rule) for rule in ("median", "asha")),
    *(Cell("nsga2", rule) for rule in ("median", "asha")),
    *(Cell(name, "asha", costs=True) for name in ("random", "tpe-joint", "nsga2")),
    Cell("gp", "median"),
    *(Cell(name, PRODUCT) for name in ("lepton", "lepton-cold", "random", "tpe", "nsgaii")),
    *(Cell(name, PRODUCT, costs=True) for name in ("lepton", "random", "tpe", "nsgaii")),
    Cell("gp", PRODUCT),
)


def simulated(table: Table, cell: Cell, seed: int) -> list[Trained]:
    """One search."""
    enough = functools.partial(_enough, table, cell)
    if cell.rule == PRODUCT:
        name, _, cold = cell.sampler.partition("-")
        search = Search(table, name, seed, costs=cell.costs, warm=not cold)
        return run_product(table, search, TRIALS, enough)
    sizes = [c["size_bytes"] for c in table.costs] if cell.costs else None
    rule = RULES[cell.rule](sizes) if sizes else RULES[cell.rule]()
    return run(table, _sampler(table, cell, seed, rule), rule, TRIALS, enough)


def _enough(table: Table, cell: Cell, steps: list[Trained]) -> bool:
    if not steps:
        return False
    if cell.costs:
        return steps[-1].spent >= BUDGETS[-1]
    return steps[-1].spent >= MOST or math.isfinite(arrival(table, steps[-1:]))


def _sampler(table: Table, cell: Cell, seed: int, rule: Rule) -> samplers.Sampler:
    if cell.sampler in OPTUNA:
        return samplers.Optuna(
            table,
            seed,
            OPTUNA[cell.sampler],
            tells_first=rule.tells_first,
            warm=cell.sampler == "tpe-warm",
            costs=cell.costs,
        )
    own = {
        "random": samplers.Evenly,
        "evolution": samplers.Evolution,
    }
    return own[cell.sampler](table, seed)


def outcome(name: str, cell: Cell, seeds: int) -> dict[str, Any]:
    """What a cell gives over the seeds: epochs to arrive, or hypervolumes."""
    use_one_thread()  # As in a run: on busy cores the threads of one process wait for each other.
    table, begun = read(name), time.process_time()
    runs = [simulated(table, cell, seed) for seed in range(min(seeds, cell.seeds))]
    row: dict[str, Any] = {"table": name, "sampler": cell.sampler, "rule": cell.rule}
    if cell.costs:
        row["volumes"] = {str(b): [round(volume(table, r, b), 4) for r in runs] for b in BUDGETS}
    else:
        arrivals = [arrival(table, r) for r in runs]
        row["arrivals"] = [None if math.isinf(a) else int(a) for a in arrivals]
        row["spent"] = [r[-1].spent for r in runs]
    return row | {"seconds": round(time.process_time() - begun, 1)}


def default_on(seeds: range) -> None:
    """Print how the default sampler and scheduler do on other seeds, no setting chosen on them."""
    for name in NAMES:
        table = read(name)
        found = [arrival(table, simulated(table, Cell("lepton", PRODUCT), n)) for n in seeds]
        arrived = [min(epochs, MOST) for epochs in found]
        mean = math.exp(statistics.mean(math.log(epochs) for epochs in arrived))
        print(f"{name}: median {statistics.median(arrived):.0f} epochs, geometric mean {mean:.1f}")


def main() -> None:
    """Simulate what is missing in `results.json`, a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--from-seed", type=int, help="the default on other seeds, printed only")
    given = parser.parse_args()
    if given.from_seed is not None:
        default_on(range(given.from_seed, given.from_seed + given.seeds))
        return
    path = HERE / "results.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    known = {(r["table"], r["sampler"], r["rule"], "volumes" in r) for r in rows}
    missing = [
        (name, cell)
        for cell in CELLS
        for name in NAMES
        if (name, cell.sampler, cell.rule, cell.costs) not in known
    ]
    with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
        tasks = [pool.submit(outcome, name, cell, given.seeds) for name, cell in missing]
        for task in concurrent.futures.as_completed(tasks):
            rows.append(task.result())
            text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
            files.write(path, f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
