"""Random combinations of cost limits: each ends with nets within them or with a named reason.

    python benchmarks/bench.py limits --combinations 200 --candidates 3

Nothing is trained: points are drawn, written, timed, rejected and repaired as a search does it.
"""

from __future__ import annotations

import collections
import random
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.common import parser, print_table
from lepton_automl.config import LIMITS, Limits, RunConfig
from lepton_automl.cost import targets
from lepton_automl.cost.cost import Cost, violations
from lepton_automl.errors import InfeasibleError
from lepton_automl.models.arch import Arch
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.search.objectives import load
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import RungResult, Trials
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import pack

SPACES = ("tiny", "residual", "mobile")
TARGET = targets.load()
POOL = 60
"""Nets of a space whose costs the limits are drawn around."""
OBJECTIVES = ("accuracy", "size_bytes")
OPTIONS = {
    "--max-latency-ms": ("max_latency_ms", 1.0),
    "--max-size-kb": ("max_size_bytes", 1000.0),
    "--max-macs": ("max_macs", 1.0),
    "--max-ram-kb": ("max_peak_ram_bytes", 1000.0),
}


@dataclass
class Answer:
    """What came of one combination."""

    space: str
    limits: Limits
    found: list[Cost] = field(default_factory=list)
    error: InfeasibleError | None = None
    asks: list[float] = field(default_factory=list)
    """Seconds of each ask."""
    busy: list[float] = field(default_factory=list)
    """Of these, the CPU time."""
    checks: list[tuple[float, float]] = field(default_factory=list)
    """Seconds by the clock and of CPU time of each net that turned out to be beyond the limits."""
    told: str = ""

    @property
    def is_right(self) -> bool:
        """Every net found is within the limits, or none was found and a reason is named."""
        kept = all(not violations(cost, self.limits) for cost in self.found)
        return kept and bool(self.found) != (self.error is not None)


class Watched(CostCheck):
    """A cost check that writes down what a refused net took."""

    def __call__(self, arch: Arch) -> Cost:
        """Check and note."""
        is_new = arch.hash not in self._known
        begun, busy = time.perf_counter(), time.process_time()
        cost = super().__call__(arch)
        if is_new and violations(cost, self.limits):
            self.taken.append((time.perf_counter() - begun, time.process_time() - busy))
        return cost

    taken: list[tuple[float, float]]


def drawn_pool(found: SearchSpace, folder: Path) -> list[Cost]:
    """Costs of evenly drawn nets, latency included."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ledger = Ledger(Path(place) / "ledger.db")
        check = checker(Limits(max_latency_ms=1e9), ledger, Path(place))
        costs = [check(found.example_arch(RandomTrial(seed))) for seed in range(POOL)]
        ledger.close()
    return costs


def checker(limits: Limits, ledger: Ledger, folder: Path) -> Watched:
    """The check a search would use."""
    check = Watched(
        limits,
        TARGET,
        120,
        needs_latency=limits.max_latency_ms is not None,
        ledger=ledger,
        lock=MeasurementLock(folder / "locks"),
    )
    check.taken = []
    return check


def combination(rng: random.Random, pool: list[Cost]) -> Limits:
    """Some of the four limits; now and then one that nothing can meet."""
    chosen = [limit for limit, spec in LIMITS.items() if spec.cost and rng.random() < 0.55] or [
        "max_size_bytes"
    ]
    stated = {}
    for limit in chosen:
        values = sorted(LIMITS[limit].measured(cost) for cost in pool)
        quantile = rng.uniform(-0.15, 0.5)
        value = values[max(0, int(quantile * len(values)))]
        value *= rng.uniform(0.2, 1.0) if quantile < 0 else rng.uniform(0.9, 1.1)
        stated[limit] = value if limit == "max_latency_ms" else max(1, round(value))
    return Limits(**stated)  # type: ignore[arg-type]


def answered(found: SearchSpace, limits: Limits, count: int, seed: int, folder: Path) -> Answer:
    """Ask for `count` trials as a search does, with made-up accuracies."""
    answer = Answer(found.name, limits)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ledger = Ledger(Path(place) / "ledger.db")
        proposer = Proposer(
            work_of(found, limits, seed, ledger, Path(place)),
            trials := Trials(),
            [load(n) for n in OBJECTIVES],
            MeasurementLock(Path(place) / "locks"),
        )
        check = proposer._check = proposer._repair._check = checker(limits, ledger, Path(place))
        try:
            for number in range(count):
                begun, busy = time.perf_counter(), time.process_time()
                try:
                    trial = proposer.add()
                finally:
                    answer.asks.append(time.perf_counter() - begun)
                    answer.busy.append(time.process_time() - busy)
                if trial is None:
                    break
                answer.found.append(trial.cost)
                correct = pack(np.arange(1000) < 1000 * random.Random(number).random())
                event = {"epochs": 1, "correct": correct, "failed": ""}
                trials.add_result(RungResult.from_event(TrainingKey(number), event))
                proposer.record(number)
        except InfeasibleError as error:
            answer.error = error
        ledger.close()
    answer.checks = check.taken
    answer.told = proposer._rejection_stats.summary() if proposer._rejection_stats.is_scarce else ""
    return answer


def work_of(
    found: SearchSpace, limits: Limits, seed: int, ledger: Ledger, folder: Path
) -> SearchRequest:
    """A search over the space's own example of pictures."""
    height, width, channels = found.example
    data: Any = SimpleNamespace(
        size=(height, width), channels=channels, class_names=tuple("0123456789"), train=range(6000)
    )
    return SearchRequest(
        config=RunConfig(
            data="", out=folder, objectives=OBJECTIVES, limits=limits, seed=seed, trials=100
        ),
        dataset=data,
        space=found,
        target=TARGET,
        latency_model=None,
        folder=RunFolder(folder),
        ledger=ledger,
        device=torch.device("cpu"),
    )


def named(answer: Answer) -> Limits:
    """The limits with what the error says would fit."""
    assert answer.error is not None
    stated = dict(answer.limits.stated)
    for option, value in re.findall(r"(--max-[a-z-]+) ([0-9.e+]+)", answer.error.fix):
        limit, unit = OPTIONS[option]
        number = float(value) * unit
        stated[limit] = number if limit == "max_latency_ms" else round(number)
    return Limits(**stated)  # type: ignore[arg-type]


def lied(answer: Answer, pool: list[Cost]) -> bool:
    """Called impossible, though a net that was merely drawn is within all the limits."""
    return answer.error is not None and any(not violations(cost, answer.limits) for cost in pool)


def spread(values: list[float]) -> str:
    """Median, mean, ninth tenth and worst."""
    ordered = sorted(values)
    nine, worst = ordered[int(0.9 * (len(ordered) - 1))], ordered[-1]
    middle, mean = statistics.median(ordered), statistics.mean(ordered)
    return f"median {middle:.2f}, mean {mean:.2f}, 90 % {nine:.2f}, worst {worst:.2f}"


def report(answers: list[Answer], pools: dict[str, list[Cost]], fitting: int) -> None:
    """Print the table."""
    rows = []
    for name in SPACES:
        own = [a for a in answers if a.space == name]
        if not own:
            continue
        wrong = sum(not a.is_right or lied(a, pools[name]) for a in own)
        errors, longest = sum(a.error is not None for a in own), max(max(a.asks) for a in own)
        rows.append((name, len(own), len(own) - errors, errors, wrong, f"{longest:.2f}"))
    print_table(("space", "combinations", "nets", "infeasible", "wrong", "longest s"), rows)
    for kind, place in (("by the clock", 0), ("of CPU time", 1)):
        checks = [1e3 * taken[place] for answer in answers for taken in answer.checks]
        print(f"{len(checks)} refused nets, ms {kind}: {spread(checks)}")
    impossible = sum(a.error is not None for a in answers)
    print(f"what would fit, tried: {fitting} of {impossible} fit; scarce and told: ", end="")
    print(sum(bool(a.told) for a in answers), "combinations")
    for kind, name in (("by the clock", "asks"), ("of CPU time", "busy")):
        asks = [seconds for answer in answers for seconds in getattr(answer, name)]
        print(f"{len(asks)} asks, s {kind}: {spread(asks)}")
    print("limits stated:", dict(collections.Counter(k for a in answers for k in a.limits.stated)))


def main(arguments: list[str]) -> None:
    """RandomTrial the combinations, search within each, try the limits that the error names."""
    options = parser(__doc__, "limits")
    options.add_argument("--combinations", type=int, default=200)
    options.add_argument("--candidates", type=int, default=3)
    given = options.parse_args(arguments)
    begun, rng = time.perf_counter(), random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        spaces = {name: loader.load(name) for name in SPACES}
        pools = {name: drawn_pool(found, folder) for name, found in spaces.items()}
        answers, fitting = [], 0
        for seed in range(given.combinations):
            name = SPACES[seed % len(SPACES)]
            limits = combination(rng, pools[name])
            answer = answered(spaces[name], limits, given.candidates, seed, folder)
            answers.append(answer)
            if answer.error is not None:
                again = answered(spaces[name], named(answer), 1, seed, folder)
                fits = again.is_right and again.error is None
                fitting += fits
                if not fits:
                    print(f"{name}: {answer.error}\n  again with {named(answer)}: {again.error}")
        report(answers, pools, fitting)
    print(f"{time.perf_counter() - begun:.0f} s in all")
