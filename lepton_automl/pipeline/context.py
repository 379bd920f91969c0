"""Open a run: resolve the options, load the data, claim the folder, open the ledger."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from lepton_automl.config import DEFAULT_TARGET, RunConfig
from lepton_automl.core import files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.core.field_types import check_types
from lepton_automl.core.files import real_path
from lepton_automl.core.machine import this_machine
from lepton_automl.core.memory import gib_text, machine_bytes, watched_memory
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import Dataset
from lepton_automl.data.opening import DataPlace, locate_data
from lepton_automl.errors import ConfigError, DataError, InfeasibleError
from lepton_automl.pipeline import data_opening
from lepton_automl.pipeline.resources import (
    Resources,
    check_folds,
    check_formats,
    check_reject,
    choose_space,
    resolve,
)
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger, record_decision, recorded_decisions
from lepton_automl.runs.ledger_check import interpreting
from lepton_automl.runs.lock import RunLock
from lepton_automl.runs.stored_run import StoredRun
from lepton_automl.runs.time_budget import start_seconds
from lepton_automl.search.executors.measuring_host import HostStopwatch
from lepton_automl.search.finals.results import last_finalist_results
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.trials import read_trials
from lepton_automl.search.warm_start import WarmStartSource, source
from lepton_automl.training.precision import precision_decision


@dataclass(frozen=True)
class RunContext:
    """One open run: what its stages read, and where they write."""

    config: RunConfig
    folder: RunFolder
    ledger: Ledger
    dataset: Dataset
    space: SearchSpace
    target: Target
    latency_model: LatencyModel | None
    """Predicts latencies of the target device; None: they are measured."""
    device: torch.device
    emit: Emit
    start_seconds: float = 0.0
    """Seconds the command took to start, a measure of how slow this machine is at the moment."""
    stopwatch: Stopwatch | None = None
    """Measures latencies on a host of `--hosts`; None: this machine does."""

    @property
    def is_timed(self) -> bool:
        """Whether latencies are needed and are measured."""
        return self.config.asks_for_latency and self.latency_model is None

    @property
    def command_end(self) -> float | None:
        """Alive seconds of the run at which a budget for this command alone ends; None: never."""
        budget, ledger = self.config.budget_seconds, self.ledger
        began = ledger.alive_seconds() - ledger.session_seconds()
        return None if budget is None else began + budget

    def report(self, stage: str, message: str) -> None:
        """Emit one line."""
        self.emit(Event(stage, message))


@contextmanager
def open_run(config: RunConfig, emit: Emit) -> Iterator[RunContext]:
    """Open the run of a configuration until the block ends.

    The steps are taken once and in this order: resources, data, search space, folder, ledger.

    Raises
    ------
    DataError, ConfigError, MachineError
        If the data, the options or the folder cannot be used.
    """
    now = time.monotonic()
    started = now if config.started is None else config.started
    start = start_seconds(now - started, time.process_time())
    use_one_thread()
    resources = resolve(config)
    stated = "" if config.max_memory is None else "--max-memory"
    with (
        watched_memory(config.memory, stated, emit),
        _stored(config, emit) as stored,
        _opened(config, emit, resources, started, start, stored) as context,
    ):
        yield context


@contextmanager
def _stored(config: RunConfig, emit: Emit) -> Iterator[StoredRun | None]:
    """The run in the store of `config.store`; None without one."""
    if config.store is None:
        yield None
        return
    folder = RunFolder(config.out)
    with StoredRun(config.store, folder, takes_over=config.take_over, emit=emit) as stored:
        yield stored


@contextmanager
def _opened(
    config: RunConfig,
    emit: Emit,
    resources: Resources,
    started: float,
    start: float,
    stored: StoredRun | None,
) -> Iterator[RunContext]:
    try:
        dataset = open_run_data(config, emit)
    except DataError as error:
        if stored is None:
            raise
        raise stored.explained(error) from error
    check_folds(config, dataset)
    space = choose_space(config, resources, dataset).for_samples(len(dataset.train))
    check_formats(config, dataset, space, resources.target)
    check_reject(config, dataset)
    chosen = _decisions(config, resources, dataset, space)
    if config.space is None:
        text = f"search space {space.name}, for {chosen[0].evidence}; --space sets another"
        emit(Event("plan", text))
    definition, warm = define_run(config, resources, dataset, space)
    if stored is not None:
        RunFolder(config.out).check_claim(definition, fresh=config.fresh)
        stored.check(definition, fresh=config.fresh)
    with (
        claimed_folder(config, definition, resources, space, stored) as (folder, lock),
        open_ledger(folder, lock, started, config, emit) as (ledger, emit),
        nullcontext() if stored is None else stored.copied(ledger, emit),
        _stopwatch(resources, emit) as stopwatch,
    ):
        _check_events(ledger)
        known = {decision.name for decision in recorded_decisions(ledger)}
        for decision in chosen:
            if decision.name not in known:  # A resumed search knows more than these.
                record_decision(ledger, decision)
        if warm_start_text := warm.keep(ledger):
            emit(Event("search", warm_start_text))
        yield RunContext(
            config,
            folder,
            ledger,
            dataset,
            space,
            resources.target,
            resources.latency_model,
            resources.device,
            emit,
            start,
            stopwatch,
        )


@contextmanager
def _stopwatch(resources: Resources, emit: Emit) -> Iterator[Stopwatch | None]:
    """What measures latencies, if that is a host."""
    if resources.measures is None:
        yield None
        return
    with closing(HostStopwatch(resources.measures, emit)) as stopwatch:
        yield stopwatch


def _check_events(ledger: Ledger) -> None:
    """Refuse a ledger with events that the stages of a run could not use.

    Raises
    ------
    ConfigError
        If a field is missing or of another type.
    """
    with interpreting(ledger.path):
        read_trials(ledger)
        for each in (*recorded_decisions(ledger), *last_finalist_results(ledger)):
            check_types(each)


def use_one_thread() -> None:
    """Compute on one thread in this process.

    The threads of one training wait for each other at every step, which is slow on a core that is
    shared, and the number of threads changes the last bits of the weights. numpy is limited too:
    the search's surrogate model would take the cores of the workers.
    """
    torch.set_num_threads(1)
    threadpool_limits(1)


def open_run_data(config: RunConfig, emit: Emit) -> Dataset:
    """Open the data of a run; ignored files are listed in its folder.

    Raises
    ------
    DataError
        If the data cannot be used.
    ConfigError
        If `judge` has no effect.
    """
    dataset = data_opening.open_data(config, emit, quarantine=RunFolder(config.out).quarantine)
    if config.judge != "auto" and dataset.test.recordings is None:
        raise ConfigError(
            f"--judge {config.judge} has no effect: the test samples are not windows of recordings",
            fix="leave it out",
        )
    return dataset


def _decisions(
    config: RunConfig, resources: Resources, dataset: Dataset, space: SearchSpace
) -> list[Decision]:
    """What is decided where an option is left out: search space, channels, device and the like."""
    decisions = []
    if config.space is None:
        evidence = dataset.samples_text
        decisions.append(Decision("search space", space.name, evidence, "inferred", "--space"))
    if config.device == "auto":
        has_gpu = resources.device.type == "cuda"
        evidence = "torch finds a CUDA device" if has_gpu else "torch finds no CUDA device"
        decisions.append(
            Decision("device", resources.device.type, evidence, "inferred", "--device")
        )
    if config.channels == "auto" and dataset.kind == "pictures":
        decisions.append(data_opening.channels_decision(dataset))
    decisions.append(precision_decision(resources.device))
    if config.jobs is None and not config.trains_elsewhere and resources.device.type == "cpu":
        evidence = "one a CPU core that this process may use"
        if config.workers == config.most_workers:
            evidence = f"as many as fit into {gib_text(config.memory)} of memory"
        workers = f"{config.workers} worker process{'es' * (config.workers > 1)}"
        decisions.append(
            Decision("workers", workers, evidence, "inferred", "--jobs", is_detail=True)
        )
    if config.max_memory is None:
        evidence = f"four fifths of the {gib_text(machine_bytes())} of this machine or container"
        text = f"at most {gib_text(config.memory)} in all processes, beside mapped files"
        decisions.append(
            Decision("memory", text, evidence, "inferred", "--max-memory", is_detail=True)
        )
    decisions += _latency_decision(config, resources)
    if config.target == DEFAULT_TARGET:
        evidence = f"the default; this machine is {this_machine()}"
        decisions.append(
            Decision("target", config.target, evidence, "assumed", "--target", is_detail=True)
        )
    return decisions


def _latency_decision(config: RunConfig, resources: Resources) -> list[Decision]:
    """Where latencies are measured, if that is a host."""
    if resources.measures is None:
        return []
    choice = f"measured on host {resources.measures.name}, those of the verification too"
    evidence = f"measures = true in {config.hosts}"
    return [Decision("latencies", choice, evidence, "inferred", "measures in the file of --hosts")]


@contextmanager
def claimed_folder(
    config: RunConfig,
    definition: Definition,
    resources: Resources,
    space: SearchSpace,
    stored: StoredRun | None = None,
) -> Iterator[tuple[RunFolder, RunLock]]:
    """Claim the run folder until the block ends; copy search space and latency table into it.

    Of a run in a store, what the store is ahead is brought into the folder.

    Raises
    ------
    ConfigError
        If another command works on the run, or the folder holds another run or other files.
    """
    folder = RunFolder(config.out)
    run_id = "" if stored is None or config.fresh else stored.run_id
    with folder.claimed(definition, fresh=config.fresh, run_id=run_id) as lock:
        files.write(folder.space_file, space.text)
        if resources.board is not None:
            files.write(folder.board_file, resources.board.to_toml())
        if resources.latency_table is not None:
            files.write(folder.latency_file, resources.latency_table)
        if stored is not None:
            stored.take(fresh=config.fresh)
        yield folder, lock


@contextmanager
def open_ledger(
    folder: RunFolder, lock: RunLock, started: float | None, config: RunConfig, emit: Emit
) -> Iterator[tuple[Ledger, Emit]]:
    """Open the ledger until the block ends; the emit it gives also records for `lepton status`.

    The folder of a run in which no trial met the limits is removed.
    """
    run_id, beside = folder.definition().run_id, folder.results()
    ledger = Ledger(folder.ledger, since=started, lock=lock, run_id=run_id, beside=beside)
    is_empty = False
    try:
        with ledger.live_status.running(_command(config)):
            files.remove_leftovers(folder.path)
            yield ledger, ledger.live_status.recorded(emit)
    except InfeasibleError:
        is_empty = not ledger.all(EventKind.RUNG)
        raise
    finally:
        ledger.close()
        if is_empty:
            folder.discard()  # A corrected limit would be refused as another definition.


def _command(config: RunConfig) -> dict[str, Any]:
    """The command as `lepton status` shows it; `words` is empty for a call from Python."""
    name = Path(sys.argv[0])
    is_typed = name.name == "lepton" or name.parts[-2:] == ("lepton_automl", "__main__.py")
    words = shlex.join(["lepton", *sys.argv[1:]]) if is_typed else ""
    budget = config.seconds_in_all
    return {
        "words": words,
        "pid": os.getpid(),
        "budget_seconds": budget,
        "trials": config.trials,
    }


def define_run(
    config: RunConfig, resources: Resources, dataset: Dataset, space: SearchSpace
) -> tuple[Definition, WarmStartSource]:
    """The definition of the run, and the run that it is warm-started from."""
    model = resources.latency_model
    definition = Definition(
        **data_places(config),
        skip_corrupt=config.skip_corrupt,
        **part_options(config),
        flip=config.flip,
        refit=config.refit,
        temperature=config.temperature,
        judge=config.judge,
        balanced=dataset.train.is_balanced,
        channels=config.channels,
        pixel_scale=config.pixel_scale,
        input_type=config.input_type,
        data_fingerprint=dataset.fingerprint,
        space=space.name,
        space_digest=space.digest,
        objectives=config.objectives,
        seed=config.seed,
        sampler=config.sampler,
        target=config.target,
        prefer=config.prefer,
        limits=config.limits,
        latency_from=model.digest if model else "",
    )
    warm = source(
        config.warm_start,
        RunFolder(config.out),
        definition,
        space,
        samples=len(dataset.train),
        budget_seconds=config.seconds_in_all,
        fresh=config.fresh,
    )
    return replace(definition, warm_start=warm.place, warm_digest=warm.digest), warm


def part_options(config: RunConfig) -> dict[str, Any]:
    """The fields of `Definition` that say how data are read and split, as text."""
    return {
        "group": config.group or "",
        "time": config.time or "",
        "parts": config.parts or "",
        "columns": config.columns or "",
        "root": "" if config.root is None else str(real_path(config.root)),
        "channel_axis": config.channel_axis,
        "window": config.window or 0,
        "stride": config.stride or 0,
        "rate": config.rate or 0,
        "mels": config.mels or 0,
        "band_mean": config.band_mean,
    }


def data_places(config: RunConfig) -> dict[str, Any]:
    """The fields of `Definition` that say where the data are, in any working directory."""
    data = locate_data(config.data)
    test = DataPlace("", "") if config.test is None else locate_data(str(config.test))
    return {
        "data": data.place,
        "data_kind": data.kind,
        "test": test.place,
        "test_kind": test.kind,
    }
