"""Any budget from one second on, with a simulated clock: a winner, or a budget that suffices."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lepton_automl import option_texts
from lepton_automl.core.decisions import SEARCH_TIME
from lepton_automl.data.dataset import Dataset
from lepton_automl.errors import ConfigError
from lepton_automl.models.arch import Arch
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.runs import time_budget
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView, recorded_decisions
from lepton_automl.runs.time_budget import BudgetInputs
from lepton_automl.search import loop, planning, rungs
from lepton_automl.search.executors import Executor
from lepton_automl.search.finals import training
from lepton_automl.search.finals.finalists import planned_final_runs
from lepton_automl.search.proposals import proposer
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.study import SearchStudy
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.trials import Plan, read_plans, read_trials
from lepton_automl.search.workers.task import TIME_IS_OVER, Task, TaskResult, pack
from lepton_automl.training.loop import initial_model
from tests.helpers.search import SPACE, dataset, make_trial, search_request, small_space

CASES, MANY_CASES = 12, 300
_WORK_OF_EPOCH = 5e7
"""About the work of an epoch of a net of the small space, in the units of `work_of`."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """How slow the simulated machine, data and sampler are, and what goes wrong."""

    start: float
    """Seconds that a process takes to start, and that the data take to open."""
    seconds_per_work: float
    noise: float
    """Standard deviation of the logarithm of a duration."""
    stalls: float
    """Share of the trainings that take `stall` times as long."""
    deaths: float
    """Share of the trainings whose worker dies once."""
    proposal: float
    """Seconds of a proposal."""
    jobs: int
    flips: bool
    has_folds: bool
    stall: float = 3.0
    stalling: str = ""
    """Part of the keys of the trainings that may take longer."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Machine:
        is_rough = rng.random() < 0.5
        return cls(
            start=float(rng.uniform(1.5, 6)),
            seconds_per_work=float(10 ** rng.uniform(-2.5, 2)) / _WORK_OF_EPOCH,
            noise=float(rng.uniform(0, 0.2)) if is_rough else 0.0,
            stalls=0.1 if is_rough else 0.0,
            deaths=0.1 if is_rough else 0.0,
            proposal=float(10 ** rng.uniform(-2, 1)) if is_rough else 0.01,
            jobs=int(rng.integers(1, 3)),
            flips=bool(rng.random() < 0.5),
            has_folds=bool(rng.random() < 0.7),
        )


class SimulatedTime:
    """`time` of the modules under test; also the clock of the ledger, over several commands."""

    def __init__(self) -> None:
        self.now = 0.0
        self.began = 0.0

    def monotonic(self) -> float:
        return self.now


class SimulatedLedger(Ledger):
    """Counts simulated seconds."""

    def __init__(self, path: Path, clock: SimulatedTime) -> None:
        super().__init__(path)
        self._clock = clock

    def alive_seconds(self) -> float:
        return self._clock.now

    def session_seconds(self) -> float:
        return self._clock.now - self._clock.began


class SimulatedWorkers(Executor):
    """Trains nothing: every task takes simulated seconds and saves an untrained net."""

    def __init__(self, machine: Machine, clock: SimulatedTime, rng: np.random.Generator) -> None:
        self.jobs = machine.jobs
        self._machine, self._clock, self._rng = machine, clock, rng
        self._running: list[tuple[float, float, Task, TaskResult]] = []
        self._ready = clock.now + machine.start
        self.keys: list[str] = []
        self.endless: list[str] = []
        """Keys of the tasks without a limit of time."""
        self.extra = 0.0
        """Seconds by which a training outlasted `max_seconds`, as its worker died."""

    @property
    def free(self) -> int:
        return self.jobs - len(self._running)

    @property
    def busy(self) -> list[Task]:
        return [task for _, _, task, _ in self._running]

    def facts(self) -> dict[str, Any]:
        return {"first": 0.0, "workers": [{"task": t.key, "share": 0.5} for t in self.busy]}

    def start(self, task: Task) -> None:
        self.keys.append(task.key)
        self.endless += [] if task.max_seconds else [task.key]
        # The processes of the workers start together with the search.
        seconds = max(0.05, self._ready - self._clock.now)
        arch, rng = Arch.from_json(task.arch), self._rng
        samples = task.samples or _samples_of(task.train[1])
        work = work_of(arch.graph.macs, samples, sum(epochs for epochs, _ in task.cycles))
        whole = work * self._machine.seconds_per_work * np.exp(rng.normal(0, self._machine.noise))
        if self._machine.stalling in task.key and rng.random() < self._machine.stalls:
            whole *= self._machine.stall
        share = 1.0
        if task.max_seconds and whole > task.max_seconds:
            share, whole = task.max_seconds / whole, task.max_seconds
        result = TaskResult((whole,) * len(task.cycles), failed=TIME_IS_OVER, share=share)
        if share == 1.0 or task.is_shortened:
            right = rng.random(_samples_of(task.validation[1])) < 0.6 + 0.3 * rng.random()
            changes = () if share == 1.0 else ((1, 1 / share),)
            result = TaskResult(
                (whole,) * len(task.cycles), pack(right), share=share, schedule_changes=changes
            )
        if rng.random() < self._machine.deaths:
            lost = self._machine.start + float(rng.random()) * whole
            self.extra += lost
            seconds += lost
        now = self._clock.now
        self._running.append((now, now + seconds + whole, task, result))

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        end = min(end for _, end, _, _ in self._running)
        self._clock.now = min(end, self._clock.now + timeout)
        done = [each for each in self._running if each[1] <= self._clock.now]
        self._running = [each for each in self._running if each[1] > self._clock.now]
        for _, _, task, result in done:
            if task.out and not result.failed:
                preprocessing = Preprocessing(task.zero_point, task.scale)
                initial_model(Arch.from_json(task.arch), preprocessing, 0).save(Path(task.out))
        return [(task, result) for _, _, task, result in done]

    def close(self) -> None:
        self._running.clear()


@functools.cache
def _samples_of(path: str) -> int:
    return len(np.load(path, mmap_mode="r"))


@dataclasses.dataclass
class Run:
    """A run folder with a simulated machine; each command may have another budget."""

    folder: Path
    data: Dataset
    space: SearchSpace
    machine: Machine
    rng: np.random.Generator
    clock: SimulatedTime = dataclasses.field(default_factory=SimulatedTime)
    messages: list[str] = dataclasses.field(default_factory=list)
    """Those of the search, of all commands."""

    def command(self, budget: float | None, trials: int = 12) -> tuple[SearchResult, float]:
        """Run one command to its end; returns its result and the seconds that it may be late.

        Raises
        ------
        ConfigError
            As the search.
        """
        clock, machine = self.clock, self.machine
        clock.began = clock.now
        clock.now += machine.start
        ledger = SimulatedLedger(self.folder / "ledger.db", clock)
        inputs = BudgetInputs(1000, 200, 200, machine.start)
        request = search_request(
            self.folder,
            ledger,
            dataset=self.data,
            space=self.space,
            sampler="random",
            trials=trials,
            folds="auto" if machine.has_folds else "off",
            jobs=machine.jobs,
            budget_seconds=budget,
            start_seconds=machine.start,
            stage_budget=lambda epoch, epochs: (
                time_budget.stage_budget(budget or 1.0, inputs, epoch, epochs).by_stage
            ),
            least_stage_seconds=lambda epoch: time_budget.least_stage_seconds(inputs, epoch),
            emit=lambda event: self.messages.append(event.message),
        )
        workers = SimulatedWorkers(machine, clock, self.rng)
        try:
            result = loop.search(request, workers)
            self._check_plans(request)
            plan = read_plans(ledger)[-1]
            late = request.allowed_overrun + workers.extra + machine.proposal
            # A budget may be over before the first training, when the processes have started.
            late += max(0.0, clock.began + 3 * machine.start + 2 - (budget or 0.0))
            self._compress_and_verify(request, plan)
        finally:
            self.keys, self.endless = workers.keys, workers.endless
            ledger.close()
        return result, late

    def _compress_and_verify(self, request: SearchRequest, plan: Plan) -> None:
        """As long as compression may take, or as quantization has to; then the verification."""
        if request.config.seconds_in_all is None:
            return
        budget, epoch = request.config.seconds_in_all, plan.epoch_seconds
        inputs = BudgetInputs(1000, 200, 200, self.machine.start)
        stages = time_budget.stage_budget(budget, inputs, epoch, plan.whole_epochs)
        end, verify = budget - stages.verify, time_budget.verify_seconds(inputs, epoch)
        least = time_budget.least_stage_seconds(inputs, epoch) - verify
        self.clock.now += max(least, min(stages.compress, end - self.clock.now)) + verify

    def _check_plans(self, request: SearchRequest) -> None:
        """No planned duration is negative, and the stages do not exceed the budget."""
        for number, plan in enumerate(read_plans(request.ledger)):
            assert plan.epochs is None or plan.epochs >= 1
            assert 0 <= plan.final_share < 1
            assert plan.epoch_seconds >= 0
            stages = request.stage_budget(plan.epoch_seconds, plan.whole_epochs)
            assert min(stages.values()) >= 0
            budget = request.config.seconds_in_all
            assert budget is None or sum(stages.values()) <= budget
            for run in planned_final_runs(request.ledger, number):
                assert run.epochs >= 1
                assert self.machine.has_folds or not run.fold


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Makes the run of a seed, on a machine that is given or drawn."""
    data = dataset(tmp_path)
    flipping = tmp_path / "flips"
    flipping.mkdir()
    spaces = {
        False: small_space(tmp_path),
        True: small_space(flipping, SPACE.replace("[train]", "[train]\nflip = [true, false]")),
    }

    def make(seed: int, given: Machine | None = None) -> Run:
        rng = np.random.default_rng(seed)
        machine = given or Machine.draw(rng)
        monkeypatch.setattr(rungs, "LEAST_SAMPLES", int(rng.choice([1, 200, 6000])))
        run = Run(tmp_path / f"run{seed}", data, spaces[machine.flips], machine, rng)
        for module in (loop, training, proposer):
            monkeypatch.setattr(module, "time", run.clock)
        ask = SearchStudy.ask

        def slow_ask(study: SearchStudy, *args: Any, **kwargs: Any) -> Any:
            run.clock.now += machine.proposal
            return ask(study, *args, **kwargs)

        monkeypatch.setattr(SearchStudy, "ask", slow_ask)
        return run

    return make


def _check(run: Run) -> None:
    """A random budget, then the one that an error names, then a larger one."""
    budget, late = _first_result(run, float(10 ** run.rng.uniform(0, 2.5)))
    assert run.clock.now <= budget + late
    with LedgerView(run.folder / "ledger.db") as ledger:
        before = ledger.all(EventKind.RUNG)
        told = recorded_decisions(ledger)
        trials, winners = read_trials(ledger), list(ledger.all(EventKind.WINNER).values())
    said = next(decision for decision in told if decision.name == SEARCH_TIME)
    best = trials.best_result(winners[-1]["number"])
    is_brief = len(trials.trained()) < 10 or best.epochs < trials[best.key.trial].recipe.epochs
    assert (said.certainty == "assumed") == is_brief
    assert said.option.split()[0] == "--budget"

    budget = 1.5 * max(budget, run.clock.now) * float(run.rng.uniform(1, 4))
    _, late = run.command(budget)
    assert run.clock.now <= budget + late
    with LedgerView(run.folder / "ledger.db") as ledger:
        after = ledger.all(EventKind.RUNG)
        plans = read_plans(ledger)
    assert list(after)[: len(before)] == list(before)
    # Nothing is trained twice but the checkpoint of the winner, where it was deleted.
    assert len(set(run.keys) & set(before)) <= 1
    epochs = [plan.epochs for plan in plans if plan.epochs is not None]
    assert epochs == sorted(epochs)


def _first_result(run: Run, budget: float) -> tuple[float, float]:
    """The budget of the first command that ends with a net, and how late it may end."""
    try:
        return budget, run.command(budget)[1]
    except ConfigError as error:
        stated = re.search(r"give --budget (\S+):", error.fix)
        if stated is None:
            raise
        larger = option_texts.seconds(stated[1])
    assert larger > budget
    return larger, run.command(larger)[1]  # Whatever the machine does meanwhile.


@pytest.mark.parametrize("seed", range(CASES))
def test_every_budget_gives_a_net_or_names_one_that_does(
    seed: int, make_run: Callable[..., Run]
) -> None:
    _check(make_run(seed))


@pytest.mark.slow
def test_many_budgets_give_a_net_or_name_one_that_does(make_run: Callable[..., Run]) -> None:
    for seed in range(CASES, CASES + MANY_CASES):
        _check(make_run(seed))


STEADY = Machine(2.0, 1.0 / _WORK_OF_EPOCH, 0.0, 0.0, 0.0, 0.01, 1, flips=False, has_folds=False)
"""An epoch takes about a second, and nothing goes wrong."""


def _plan(run: Run) -> Plan:
    with LedgerView(run.folder / "ledger.db") as ledger:
        return read_plans(ledger)[-1]


def _trainings(run: Run) -> int:
    with LedgerView(run.folder / "ledger.db") as ledger:
        return len(ledger.keys(EventKind.RUNG))


@pytest.mark.parametrize("hanging", ["1-0", "-final-"])
def test_a_training_that_hangs_ends_with_the_time(
    hanging: str, make_run: Callable[..., Run]
) -> None:
    run = make_run(0, dataclasses.replace(STEADY, stalls=1.0, stall=1e4, stalling=hanging))
    _, late = run.command(200.0)
    assert any(hanging in key for key in run.keys)
    assert run.clock.now <= 200.0 + late
    assert run.endless == []
    with LedgerView(run.folder / "ledger.db") as ledger:
        finals = [key for key in ledger.all(EventKind.RUNG) if "-final-" in key]
    assert finals  # Neither loses the net that ships its final training.


def test_a_much_larger_budget_trains_for_longer(make_run: Callable[..., Run]) -> None:
    run = make_run(0, STEADY)
    run.command(25.0)
    assert _plan(run).is_scarce
    run.command(3000.0)
    with LedgerView(run.folder / "ledger.db") as ledger:
        trained = max(result["epochs"] for result in ledger.all(EventKind.RUNG).values())
    assert trained >= 9 > _plan(run).first_trial > 0


def test_a_budget_below_what_was_used_trains_nothing_and_names_one_that_does(
    make_run: Callable[..., Run],
) -> None:
    run = make_run(0, STEADY)
    run.command(25.0)
    run.clock.now += 60.0  # The verification was slow.
    before, used = _trainings(run), run.clock.now
    run.messages.clear()
    run.command(60.0)
    assert _trainings(run) == before
    (said,) = [text for text in run.messages if "has used" in text]
    stated = re.search(r"has used (\d+) s of --budget 60 s; --budget (\S+) continues it", said)
    assert stated is not None
    assert used <= int(stated[1]) < option_texts.seconds(stated[2])
    run.command(option_texts.seconds(stated[2]))
    assert _trainings(run) > before


def test_a_larger_budget_never_gives_trials_fewer_epochs(tmp_path: Path) -> None:
    samples, seconds = 1000, 0.3
    first, inputs = make_trial(0, epochs=27), BudgetInputs(samples, samples // 6, samples // 6, 2.0)
    ledger = SimulatedLedger(tmp_path / "run" / "ledger.db", SimulatedTime())
    speed = seconds / work_of(first.cost.macs, samples, 1)
    ledger.record(EventKind.PLAN, planning._SPEED, {"seconds_per_work": speed})
    request = search_request(tmp_path / "run", ledger, jobs=2)
    tasks: Any = SimpleNamespace(samples=samples)
    epochs = []
    for budget in np.geomspace(40, 70, 30):
        config = dataclasses.replace(request.config, budget_seconds=float(budget), trials=None)
        reserved = functools.partial(time_budget.stage_budget, float(budget), inputs)
        plan = planning.make_plan(
            dataclasses.replace(
                request,
                config=config,
                stage_budget=lambda epoch, epochs, reserved=reserved: (
                    reserved(epoch, epochs).by_stage
                ),
            ),
            tasks,
            first,
            SimulatedWorkers(STEADY, SimulatedTime(), np.random.default_rng(0)),
        )
        epochs.append(plan.epochs)
    assert epochs == sorted(epochs), epochs
    assert epochs[0] < 9 < 27 <= epochs[-1], epochs
    ledger.close()
