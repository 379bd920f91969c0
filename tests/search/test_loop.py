from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.config import Limits
from lepton_automl.core.events import Event
from lepton_automl.errors import InfeasibleError
from lepton_automl.metrics.intervals import accuracy_interval
from lepton_automl.models.model import Model
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.search import rungs
from lepton_automl.search.loop import search
from lepton_automl.search.planning import clock_for, make_plan, search_ends, seconds_left
from lepton_automl.search.proposals.portfolio import KnownNet
from lepton_automl.search.request import SearchRequest, SearchResult
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.trials import Plan, Trials
from lepton_automl.search.workers.task import Task, TaskResult, unpack
from tests.helpers.search import (
    SPACE,
    InlineWorkers,
    ScoredWorkers,
    dataset,
    make_trial,
    search_request,
    small_space,
)


class Killed(BaseException):
    """Stands for kill -9: nothing may be tidied up after it."""


class DoomedLedger(Ledger):
    """Dies before or after its n-th event."""

    def __init__(self, path: Path, events: int, *, before: bool) -> None:
        super().__init__(path)
        self.left, self.before = events, before

    def record(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        self.left -= 1
        if not self.left and self.before:
            raise Killed
        super().record(kind, key, value)
        if not self.left:
            raise Killed


@pytest.fixture(autouse=True)
def _short_rungs(monkeypatch):
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 1)


def events_of(folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    with LedgerView(folder / "ledger.db") as view:
        return [
            (kind, key, {k: v for k, v in value.items() if k != "seconds"})
            for kind, key, value in view.events()
        ]


def run(folder: Path, **changes: Any) -> SearchResult:
    job = search_request(folder, **changes)
    try:
        return search(job, InlineWorkers(job.jobs))
    finally:
        job.ledger.close()


def test_a_search_killed_at_random_events_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wanted = run(whole)
    rng, kills, trained = np.random.default_rng(0), 0, []
    while True:
        doom = int(rng.integers(1, 6))
        ledger = DoomedLedger(broken / "ledger.db", doom, before=bool(rng.random() < 0.5))
        workers = InlineWorkers()
        try:
            found = search(search_request(broken, ledger), workers)
            break
        except Killed:
            kills += 1
        finally:
            ledger.close()
            trained += [task.key for task in workers.tasks]
    assert kills >= 4
    assert events_of(broken) == events_of(whole)
    assert found.best.digest == wanted.best.digest
    assert found.number == wanted.number
    finished = [key for kind, key, _ in events_of(whole) if kind == "rung"]
    assert set(trained) == set(finished)
    assert len(trained) - len(finished) <= kills


def test_two_searches_with_one_seed_are_equal_and_another_seed_is_not(tmp_path: Path) -> None:
    first = run(tmp_path / "a", trials=3)
    second = run(tmp_path / "b", trials=3)
    other = run(tmp_path / "c", trials=3, seed=1)
    assert events_of(tmp_path / "a") == events_of(tmp_path / "b")
    assert first.best.digest == second.best.digest != other.best.digest


def test_the_winner_is_saved_and_answers_as_reported(tmp_path: Path) -> None:
    found = run(tmp_path / "run", trials=4)
    saved = Model.load(tmp_path / "run" / "models" / "best")
    assert saved.digest == found.best.digest
    assert saved.metrics["validation_accuracy"] == found.correct.mean()
    assert len(found.predictions) == len(found.correct) == 18
    assert [row.number for row in found.rows] == [0, 1, 2, 3]
    assert found.number in [row.number for row in found.rows]
    assert (tmp_path / "run" / "models" / "best" / "recipe.json").is_file()


def test_a_finished_search_is_answered_from_the_ledger_and_more_trials_go_on(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    first = run(folder, trials=3)
    events = events_of(folder)
    job = search_request(folder, trials=3)
    again = search(job, ScoredWorkers())
    job.ledger.close()
    assert events_of(folder) == events
    assert again.best.digest == first.best.digest
    more = run(folder, trials=5)
    assert [row.number for row in more.rows] == [0, 1, 2, 3, 4]
    assert events_of(folder)[: len(events)] == events


def test_checkpoints_that_are_gone_are_made_again_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(folder, trials=3)
    (folder / "models" / "best" / "recipe.json").unlink()
    for path in (folder / "checkpoints").rglob("*.safetensors"):
        path.unlink()
    assert run(folder, trials=3).best.digest == first.best.digest


def test_checkpoints_that_are_damaged_are_made_again_bit_for_bit(tmp_path: Path) -> None:
    folder, told = tmp_path / "run", list[Event]()
    first = run(folder, trials=3)
    (folder / "models" / "best" / "recipe.json").unlink()
    for path in (folder / "checkpoints").rglob("weights.safetensors"):
        tensors = load_file(path)
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, path)
    assert run(folder, trials=3, emit=told.append).best.digest == first.best.digest
    said = "weights.safetensors has changed since it was written; its training begins anew"
    assert any(event.message.endswith(said) for event in told)


def test_only_checkpoints_that_matter_are_kept(tmp_path: Path) -> None:
    found = run(tmp_path / "run")
    kept = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.is_dir()]
    finals = [name for name in kept if "final" in name]
    assert len(finals) == len(found.finalists) == 3  # `lepton pick` may want them
    assert [name[:5] for name in kept if name not in finals] in ([], [f"{found.number:05d}"])


def test_a_kill_between_the_winner_and_tidying_up_leaves_nothing_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder)
    kept = sorted((folder / "checkpoints").iterdir())
    (folder / "checkpoints" / "00099-0").mkdir()
    run(folder)
    assert sorted((folder / "checkpoints").iterdir()) == kept


def test_what_nothing_can_meet_is_answered_with_what_would_fit(tmp_path: Path) -> None:
    job, workers = (
        search_request(tmp_path / "run", limits=Limits(max_size_bytes=1000)),
        InlineWorkers(),
    )
    with pytest.raises(InfeasibleError) as caught:
        search(job, workers)
    assert "the smallest size seen is" in caught.value.what
    assert "--max-size-kb" in caught.value.fix
    assert workers.tasks == []
    kilobytes = float(caught.value.fix.split()[1])
    job = search_request(
        tmp_path / "again", limits=Limits(max_size_bytes=int(kilobytes * 1000)), trials=1
    )
    found = search(job, InlineWorkers())
    assert found.rows[0].cost.size_bytes <= kilobytes * 1000


def test_ctrl_c_leaves_the_best_so_far_and_the_search_goes_on(tmp_path: Path) -> None:
    class Interrupted(InlineWorkers):
        def finished(self, timeout: float = 1.0) -> Any:
            if len(self.tasks) == 4:
                raise KeyboardInterrupt
            return super().finished(timeout)

    folder, told = tmp_path / "run", list[Event]()
    job = search_request(folder, emit=told.append)
    with pytest.raises(KeyboardInterrupt):
        search(job, Interrupted())
    job.ledger.close()
    assert "best so far" in told[-1].message
    Model.load(folder / "models" / "best")
    assert run(folder).best.digest == run(tmp_path / "whole").best.digest


def test_ctrl_c_just_after_a_result_was_written_down_finds_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = search_request(tmp_path / "run")
    record = job.ledger.record

    def stopped(kind: str, key: str, value: Mapping[str, Any]) -> None:
        record(kind, key, value)
        if kind == "rung":
            raise KeyboardInterrupt

    monkeypatch.setattr(job.ledger, "record", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(job, InlineWorkers())
    assert Model.load(job.folder.best).arch.classes == 3
    job.ledger.close()


def test_several_tasks_at_once_train_every_trial_once(tmp_path: Path) -> None:
    job = search_request(tmp_path / "run", jobs=3, trials=12)
    workers = ScoredWorkersThatSave(3)
    found = search(job, workers)
    keys = [task.key for task in workers.tasks]
    assert len(keys) == len(set(keys))
    assert {row.number for row in found.rows} == set(range(12))
    promoted = [row for row in found.rows if row.rung >= 1]
    assert len(promoted) >= 4
    job.ledger.close()


def test_a_budget_plans_the_rungs_and_is_kept(tmp_path: Path) -> None:
    class Clock(Ledger):
        """Shows the time that tasks have taken, whatever the machine's clock says."""

        now = 0.0

        def alive_seconds(self) -> float:
            return self.now

    class Paced(ScoredWorkersThatSave):
        """Every epoch takes a fiftieth of a second."""

        def run(self, task: Any) -> Any:
            assert clock.now < 6.0, "a task is started after the end"
            seconds = tuple(0.02 * epochs for epochs, _ in task.cycles)
            clock.now += sum(seconds)
            return dataclasses.replace(super().run(task), seconds=seconds)

    told: list[Event] = []
    clock = Clock(tmp_path / "run" / "ledger.db")
    job = search_request(tmp_path / "run", clock, budget_seconds=6.0, trials=None, emit=told.append)
    found = search(job, Paced())
    assert 3.0 < clock.now <= 6.0
    plan = job.ledger.get("plan", "search")
    assert plan is not None
    assert plan["epochs"] >= 1
    assert plan["seconds_per_work"] > 0
    assert found.rows
    assert any(event.total == 6.0 for event in told)
    job.ledger.close()


def test_a_budget_that_is_over_at_once_gives_the_best_the_search_trained(tmp_path: Path) -> None:
    said: list[Event] = []
    job = search_request(tmp_path / "run", budget_seconds=1e-6, trials=None, emit=said.append)
    workers = InlineWorkers()
    found = search(job, workers)
    assert not any("-final-" in task.key for task in workers.tasks)
    rungs_of = dict(job.ledger.all("rung"))
    assert list(rungs_of) == ["0-0"]  # One candidate is always trained.
    assert found.number == 0
    assert found.correct.sum() == unpack(rungs_of["0-0"]["correct"]).sum()
    assert any("--budget" in event.message for event in said)
    assert Model.load(tmp_path / "run" / "models" / "best").arch.hash == found.best.arch.hash
    job.ledger.close()


def test_what_is_told_last_is_what_was_found_last(tmp_path: Path) -> None:
    told: list[Event] = []
    job = search_request(tmp_path / "run", emit=told.append)
    found = search(job, InlineWorkers())
    last = [event for event in told if event.done is not None][-1]
    assert last.done == last.total
    front = {row.number: (row.accuracy, row.epochs) for row in found.front}
    assert {f["number"]: (f["accuracy"], f["epochs"]) for f in last.data["front"]} == front
    assert last.data["best"]["number"] == found.number
    count = len(told)
    assert search(job, InlineWorkers()).number == found.number
    assert len(told) == count  # A search that is over has nothing to tell.
    job.ledger.close()


class ScoredWorkersThatSave(ScoredWorkers):
    """As if trained: a fresh model is saved for every task."""

    def run(self, task: Any) -> Any:
        InlineWorkers.run(self, dataclasses.replace(task, cycles=(), start=""))
        return super().run(task)


def test_search_work_is_what_the_package_gives() -> None:
    assert SearchRequest.__module__ == "lepton_automl.search.request"


def test_where_classes_count_alike_all_accuracies_of_a_search_are_balanced(tmp_path: Path) -> None:
    data = dataset(tmp_path, [60, 40, 16]).with_balance("auto")
    folder, labels = tmp_path / "run", data.validation.labels
    found = run(folder, dataset=data, trials=3)
    assert found.is_balanced
    for _, _, event in (e for e in events_of(folder) if e[0] == "rung"):
        answers = np.where(unpack(event["correct"]), labels, (labels + 1) % 3)
        wanted = balanced_accuracy_score(labels, answers)
        assert event["balanced"]["accuracy"] == pytest.approx(wanted)
    winner, reached = found.rows[found.number], balanced_accuracy_score(labels, found.predictions)
    assert winner.accuracy == pytest.approx(reached)
    assert found.best.metrics["validation_accuracy"] == pytest.approx(reached)
    assert winner.interval == accuracy_interval(found.correct, None, labels)


def test_workers_train_as_the_data_count(tmp_path: Path) -> None:
    data, digests = dataset(tmp_path, [60, 40, 16]), []
    for name in ("on", "off"):
        workers = InlineWorkers()
        job = search_request(tmp_path / name, dataset=data.with_balance(name), trials=1)
        digests.append(search(job, workers).best.digest)
        job.ledger.close()
        assert {task.is_balanced for task in workers.tasks} == {name == "on"}
    assert digests[0] != digests[1]


class Observer(InlineWorkers):
    """A machine on which every cycle takes as long, as far as it tells."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds

    def run(self, task: Task) -> TaskResult:
        return TaskResult((99.0, self.seconds), "1:gA==")


class Broken(InlineWorkers):
    def run(self, task: Task) -> TaskResult:
        return TaskResult(failed="no")


def test_without_a_budget_every_recipe_keeps_its_epochs(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run"), Trials()
    trials.add(make_trial(0))
    workers = InlineWorkers()
    plan = make_plan(job, TaskBuilder(job, trials), trials[0], workers)
    assert plan.epochs is None
    assert workers.tasks == []
    assert seconds_left(job, None) == math.inf
    assert clock_for(job, plan).left() == math.inf
    job.ledger.close()


def test_with_a_budget_the_second_cycle_of_a_probe_tells_the_speed(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run", budget_seconds=100.0, trials=None), Trials()
    trials.add(make_trial(0))
    tasks = TaskBuilder(job, trials)
    plan = make_plan(job, tasks, trials[0], Observer())
    probe = tasks.probe(trials[0])
    work_units = (trials[0].cost.macs + 700_000) * tasks.samples * probe.cycles[-1][0]
    assert plan.seconds_per_work * work_units == 10.0
    assert job.ledger.get(EventKind.PLAN, "search") == plan.to_event()
    job.ledger.close()


def test_a_first_candidate_that_cannot_be_timed_does_not_stop_the_search(tmp_path: Path) -> None:
    job, trials = search_request(tmp_path / "run", budget_seconds=50.0), Trials()
    trials.add(make_trial(0))
    plan = make_plan(job, TaskBuilder(job, trials), trials[0], Broken())
    assert plan.seconds_per_work > 0
    job.ledger.close()


def test_the_time_left_is_that_of_the_run(tmp_path: Path) -> None:
    job = search_request(tmp_path / "run", trials=3)
    assert seconds_left(job, None) == math.inf
    job.ledger.close()
    job = search_request(tmp_path / "run", budget_seconds=5.0)
    left = seconds_left(job, None)
    assert 5.0 - job.ledger.alive_seconds() <= left <= 5.0
    job.ledger.close()


def test_more_is_kept_for_the_winner_where_candidates_are_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 6000)

    def plan(budget_seconds: float, name: str) -> Plan:
        job = search_request(tmp_path / name, budget_seconds=budget_seconds, trials=None)
        trials = Trials()
        trials.add(make_trial(0))
        made = make_plan(job, TaskBuilder(job, trials), trials[0], Observer(1e4))
        kept = clock_for(job, made)
        left = seconds_left(job, made)
        job.ledger.close()
        assert kept.allows(0.0)
        assert left > 0
        return made

    own = make_trial(0).recipe.epochs
    plenty, scarce = plan(1e9, "plenty"), plan(4e3, "scarce")
    whole = own * scarce.epoch_seconds
    some = plan(12 * whole, "some")
    assert (plenty.epochs or 0) >= own > (some.epochs or 0) > (scarce.epochs or 0)
    assert scarce.final_share > some.final_share > plenty.final_share
    assert [each.is_scarce for each in (scarce, some, plenty)] == [True, False, False]
    # Twice what the recipe asks for, with a margin, fits into what is kept.
    assert 1.15 * 2 * whole <= some.final_share * 12 * whole


def test_time_of_the_stages_after_the_search_is_reserved_and_printed(tmp_path: Path) -> None:
    told: list[Event] = []
    asked: list[tuple[float, int]] = []

    def stage_budget(epoch_seconds: float, epochs: int) -> dict[str, float]:
        asked.append((epoch_seconds, epochs))
        return {"compression": 30.0, "verification": 10.0}

    job = search_request(
        tmp_path / "run",
        budget_seconds=100.0,
        trials=None,
        stage_budget=stage_budget,
        emit=told.append,
    )
    trials = Trials()
    trials.add(make_trial(0))
    tasks = TaskBuilder(job, trials)
    plan = make_plan(job, tasks, trials[0], Observer())
    probed = tasks.probe(trials[0]).cycles[-1][0]
    assert {epoch for epoch, _ in asked if epoch} == {plan.epoch_seconds}
    assert 1 <= plan.whole_epochs <= make_trial(0).recipe.epochs
    assert asked[-1] == (plan.epoch_seconds, plan.whole_epochs)
    assert plan.epoch_seconds == pytest.approx(10.0 / probed)
    assert search_ends(job, plan) == 60.0
    before, left, after = (
        job.ledger.alive_seconds(),
        seconds_left(job, plan),
        job.ledger.alive_seconds(),
    )
    assert 60.0 - after <= left <= 60.0 - before
    assert "2 min budget (--budget): search 60 % (60 s), of which" in told[0].message
    assert "compression 30 % (30 s); verification 10 % (10 s)" in told[0].message
    job.ledger.close()


def test_enough_is_kept_for_three_to_be_trained_to_the_end(tmp_path: Path) -> None:
    class Paced(InlineWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult((9.0, 0.12 * task.cycles[-1][0]), "1:gA==")

    job = search_request(tmp_path / "run", budget_seconds=60.0, trials=None)
    trials = Trials()
    trials.add(make_trial(0))
    plan = make_plan(job, TaskBuilder(job, trials), trials[0], Paced())
    kept = plan.final_share * 60.0
    assert plan.epochs is not None
    least = max(plan.epochs, 2 * min(plan.epochs, 9))
    assert 3 * least * 0.12 <= kept <= 0.4 * 60.0
    job.ledger.close()


def test_trainings_that_are_cut_short_need_less_time_after_the_search(tmp_path: Path) -> None:

    def stage_budget(epoch_seconds: float, epochs: int) -> dict[str, float]:
        return {"compression": epochs * epoch_seconds}

    job = search_request(
        tmp_path / "run", budget_seconds=8.0, trials=None, stage_budget=stage_budget
    )
    trials = Trials()
    trials.add(make_trial(0))
    plan = make_plan(job, TaskBuilder(job, trials), trials[0], Observer())
    assert plan.epochs is not None
    assert plan.epochs <= plan.whole_epochs < make_trial(0).recipe.epochs
    assert search_ends(job, plan) == 8.0 - plan.whole_epochs * plan.epoch_seconds
    job.ledger.close()


def test_where_there_is_no_time_for_three_there_is_for_one(tmp_path: Path) -> None:
    class Paced(InlineWorkers):
        def run(self, task: Task) -> TaskResult:
            return TaskResult((9.0, 0.35 * task.cycles[-1][0]), "1:gA==")

    job = search_request(tmp_path / "run", budget_seconds=30.0, jobs=2, trials=None)
    trials = Trials()
    trials.add(make_trial(0))
    plan = make_plan(job, TaskBuilder(job, trials), trials[0], Paced())
    assert plan.epochs is not None
    least = max(9, plan.epochs, 2 * min(plan.epochs, 9)) * plan.epoch_seconds
    assert plan.epochs >= 9
    assert least <= plan.final_share * 30.0 < 2 * least  # two workers: three take twice as long
    job.ledger.close()


THREE = SPACE.replace("[[candidate]]", '[[candidate]]\nname = "first"\n[[candidate]]', 1) + (
    '[[candidate]]\nname = "wide"\nstem = { out = 16 }\nstage1 = { out = 24 }\n'
)


def test_a_resumed_search_begins_with_the_nets_that_its_plan_names(tmp_path: Path) -> None:
    space = small_space(tmp_path, THREE)
    job = search_request(tmp_path / "run", space=space, trials=2)
    planned = Plan(None, 0.0, 0.0, first=(0, 2))
    job.ledger.record(EventKind.PLAN, "search", planned.to_event())
    found = search(job, InlineWorkers())
    job.ledger.close()
    assert [dict(row.params) for row in found.rows] == [space.candidates[0], space.candidates[2]]


@pytest.mark.parametrize("recipes", [2.0, 3.0, 8.0, 100.0])
def test_the_plan_leaves_time_to_try_all_its_nets_and_to_train_one(
    tmp_path: Path, recipes: float
) -> None:
    """The budget is that of so many complete trainings of the mean net."""
    trials = Trials()
    trials.add(make_trial(0))
    nets = [KnownNet(work, 9) for work in (4e6, 20e6, 12e6)]
    seconds = recipes * 9 * 12e6 * 1e-6
    job = search_request(tmp_path / "run", budget_seconds=seconds, trials=None)
    tasks = TaskBuilder(job, trials)
    probe = tasks.probe(trials[0])
    units = (trials[0].cost.macs + 700_000) * tasks.samples * probe.cycles[-1][0]
    plan = make_plan(job, tasks, trials[0], Observer(1e-6 * units), nets)
    job.ledger.close()
    assert plan.first == (0, 1, 2)
    assert plan.epoch_seconds == pytest.approx(12.0)
    first = rungs.milestones(plan.epochs or 0, tasks.samples)[0]
    assert first * (4.0 + 20.0 + 12.0) <= (1 - plan.final_share) * seconds * 1.01
    assert plan.final_share * seconds >= min(9, 0.5 * recipes * 9) * 12.0


def test_where_time_is_scarce_no_net_is_tried_beside_the_known_good_ones(tmp_path: Path) -> None:
    space = small_space(tmp_path, THREE)
    job = search_request(tmp_path / "run", space=space, trials=9)
    scarce = Plan(3, 0.0, 0.0, own_epochs=9, first=(0, 1, 2))
    assert scarce.is_scarce
    job.ledger.record(EventKind.PLAN, "search", scarce.to_event())
    found = search(job, ScoredWorkersThatSave(1))
    job.ledger.close()
    assert len(found.rows) == 3
