"""Open a run: resolve the options, load the data, claim the folder, open the ledger."""

from __future__ import annotations

import errno
import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lepton_automl.config import DEFAULT_TARGET, RunConfig, fold_count
from lepton_automl.core import files, plugins, untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit, Event
from lepton_automl.core.field_types import check_types
from lepton_automl.core.files import real_path
from lepton_automl.core.machine import this_machine
from lepton_automl.core.memory import gib_text, machine_bytes, watched_memory
from lepton_automl.core.untrusted_files import JSON
from lepton_automl.cost import boards, targets
from lepton_automl.cost.boards import Board
from lepton_automl.cost.latency_model import LatencyModel, estimate, read_table
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import DataPlace, Dataset, locate_data
from lepton_automl.data.folds import assign_folds, is_small
from lepton_automl.errors import ArchError, ConfigError, DataError, InfeasibleError, MachineError
from lepton_automl.metrics.rejection import samples_needed
from lepton_automl.models import formats
from lepton_automl.models.random_weights import random_net
from lepton_automl.pipeline import data_opening
from lepton_automl.runs.folder import Definition, RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger, record_decision, recorded_decisions
from lepton_automl.runs.ledger_check import interpreting
from lepton_automl.runs.lock import RunLock, check_not_held
from lepton_automl.runs.stored_run import StoredRun
from lepton_automl.runs.time_budget import start_seconds
from lepton_automl.search import callbacks
from lepton_automl.search.executors.hosts_file import read_hosts
from lepton_automl.search.finals.results import last_finalist_results
from lepton_automl.search.objectives import names as objective_names
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.study import make_sampler
from lepton_automl.search.trials import read_trials
from lepton_automl.search.warm_start import Source, source
from lepton_automl.training.precision import precision_decision

_SPACES = {"pictures": "general", "signals": "signal", "audio": "audio"}
"""The search spaces without `--space`, for pictures and for signals: their known-good nets of
several sizes and resolutions are trained first, so that the data choose
(`search.proposals.portfolio`)."""


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
    """Predicts latencies of the target device; None: they are measured on this machine."""
    device: torch.device
    emit: Emit
    start_seconds: float = 0.0
    """Seconds the command took to start, a measure of how slow this machine is at the moment."""

    @property
    def is_timed(self) -> bool:
        """Whether latencies are needed and are measured on this machine."""
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
        dataset = open_data(config, emit)
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
        )


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


@dataclass(frozen=True)
class Resources:
    """What the options name: target, latency table, device, search space."""

    target: Target
    latency_model: LatencyModel | None
    latency_table: bytes | None
    """Content of the file of `--latency-from`."""
    device: torch.device
    space: SearchSpace | None
    """None: the default one for the kind of the data."""
    board: Board | None
    """Board that the net is for; None: none is named."""


def resolve(config: RunConfig) -> Resources:
    """Load what the options name, before any data is read.

    Raises
    ------
    ConfigError
        If a name is not known, an option has no effect, or another command works on the run.
    MachineError
        If the device or a package is missing.
    """
    _check_place(config)
    _check_objectives(config)
    make_sampler(config.sampler, config.seed)
    _check_ship(config)
    for name in config.callbacks:
        callbacks.load(name)
    target, device = targets.load(config.target), chosen_device(config.device)
    _check_jobs(config, device)
    table, model = None, estimate(target) if target.latency == "estimated" else None
    if config.latency_from is not None:
        model = read_table(config.latency_from)
        table = untrusted_files.read_bytes(config.latency_from, JSON, fix="give a latency table")
    space = None if config.space is None else loader.load(config.space)
    if config.hosts is not None:
        read_hosts(config.hosts)  # The search reads it again and again; a wrong one is told now.
    board = None if config.board is None else boards.load(config.board)
    return Resources(target, model, table, device, space, board)


def _check_ship(config: RunConfig) -> None:
    """Check that the file formats are known, and that a limit on flash binds what ships."""
    for name in _format_names(config):
        formats.load(name)
    if config.limits.max_flash_bytes is not None and config.ship == formats.ONNX:
        raise ConfigError(
            "a limit on flash binds code, and --ship onnx ships an ONNX file",
            fix="leave --ship out: then C ships; or leave --board and --max-flash-kb out",
        )


def _format_names(config: RunConfig) -> list[str]:
    """File formats that the options name or imply, each once."""
    stated = (*(config.formats or ()), config.shipped_format)
    return [name for name in dict.fromkeys(stated) if name]


def check_reject(config: RunConfig, dataset: Dataset) -> None:
    """Check that the validation part can show the stated share of rejected samples.

    Raises
    ------
    ConfigError
        If it is too small, or the data are no pictures.
    """
    if not config.reject:
        return
    if dataset.kind != "pictures":
        raise ConfigError("--reject has no effect: it is for pictures", fix="leave it out")
    groups = dataset.validation.groups
    count = len(dataset.validation) if groups is None else len(np.unique(groups))
    if count < (needed := samples_needed(config.reject)):
        kind = "samples" if groups is None else "groups"
        raise ConfigError(
            f"--reject {config.reject:g} cannot be shown on {count} validation {kind}: it takes "
            f"{needed}, none of which is rejected",
            fix="give a greater share or more data, or leave it out",
        )


def check_formats(config: RunConfig, dataset: Dataset, space: SearchSpace, target: Target) -> None:
    """Check with a random net that the file formats can hold nets of the space.

    Raises
    ------
    ConfigError
        If one cannot.
    """
    names = [name for name in _format_names(config) if name != formats.ONNX]
    if not names:
        return
    arch, _ = space.sample(
        RandomTrial(),
        size=dataset.size,
        channels=dataset.channels,
        classes=len(dataset.class_names),
        target=target,
    )
    net = random_net(arch, target.weight_limit)
    samples = np.zeros((1, *arch.file_input), net.preprocessing.input_type)
    golden = formats.Golden(samples, np.full((1, arch.classes), 1 / arch.classes, np.float32))
    for name in names:
        try:
            formats.load(name).files(net, formats.Words(dataset.class_names), golden)
        except ArchError as error:
            raise ConfigError(
                f"the format {name} cannot hold these nets: {error.what}", fix=error.fix
            ) from error


def open_data(config: RunConfig, emit: Emit) -> Dataset:
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
            f"--judge {config.judge} has no effect: the test samples are no windows of recordings",
            fix="leave it out",
        )
    return dataset


def check_folds(config: RunConfig, dataset: Dataset) -> None:
    """Check that `folds` fits the data.

    Raises
    ------
    ConfigError
        If it has no effect, or the data cannot be divided into so many folds.
    """
    count = fold_count(config.folds)
    if count is None:
        return
    if count == 1 and not is_small(dataset.train, dataset.validation):
        raise ConfigError(
            f"--folds off has no effect: with {len(dataset.train) + len(dataset.validation):,} "
            "samples for training and validation the finalists are compared on validation alone",
            fix="leave it out",
        )
    possible = assign_folds(dataset.train, dataset.validation, config.seed).count
    if count > possible:
        limit = f"at most {possible} folds" if possible > 1 else "no folds"
        raise ConfigError(
            f"--folds {count}: these data can be divided into {limit}, as groups stay together and "
            "one fold is the validation part",
            fix=f"give --folds {possible} or leave it out" if possible > 1 else "leave it out",
        )


def choose_space(config: RunConfig, resources: Resources, dataset: Dataset) -> SearchSpace:
    """The search space that is named, or the default one; with flips as `flip` says.

    Raises
    ------
    ConfigError
        If the named one is for another kind of data, or `flip` has no effect.
    """
    space = resources.space or loader.load(_SPACES[dataset.kind])
    if space.kind != dataset.kind:
        raise ConfigError(
            f"--space {space.name} is for {space.kind}, the data are {dataset.kind}",
            fix=f"leave --space out, or name one for {dataset.kind}; lepton spaces lists them",
        )
    space = replace(space, front_end=dataset.front_end)
    if config.flip == "auto":
        return space
    if dataset.kind != "pictures":
        raise ConfigError(
            f"--flip {config.flip} has no effect: {dataset.kind} are never mirrored",
            fix="leave it out",
        )
    wanted = config.flip == "on"
    flips = {value for each in space.train_parameters("flip") for value in each.values} or {False}
    if flips == {wanted}:
        raise ConfigError(
            f"--flip {config.flip} has no effect: the search space {space.name} "
            f"{'always' if wanted else 'never'} mirrors samples",
            fix="leave it out",
        )
    return space.with_fixed("flip", value=wanted)


def _decisions(
    config: RunConfig, resources: Resources, dataset: Dataset, space: SearchSpace
) -> list[Decision]:
    """What is decided where an option is left out: search space, channels, device and the like."""
    decisions = []
    if config.space is None:
        evidence = _kind_text(dataset)
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
    if config.target == DEFAULT_TARGET:
        evidence = f"the default; this machine is {this_machine()}"
        decisions.append(
            Decision("target", config.target, evidence, "assumed", "--target", is_detail=True)
        )
    return decisions


def _kind_text(dataset: Dataset) -> str:
    """What the samples are."""
    if dataset.is_signal and dataset.size is not None:
        channels = f"{dataset.channels} channel{'s' * (dataset.channels > 1)}"
        return f"signals of {dataset.size[1]} values in {channels}"
    if (front_end := dataset.front_end) is not None:
        return f"windows of {front_end.window} audio samples at {front_end.rate} Hz"
    sizes = "several sizes" if dataset.size is None else "{}x{} pixels".format(*dataset.size)
    kinds = {1: "grey pictures", 3: "colour pictures"}
    kind = kinds.get(dataset.channels, f"pictures with {dataset.channels} channels")
    return f"{kind} of {sizes}"


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


def chosen_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for on this machine.

    Raises
    ------
    MachineError
        If the name is `cuda` and torch finds no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            "--device cuda: torch finds no CUDA device here",
            fix="use --device cpu, or install a CUDA build of torch",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_jobs(config: RunConfig, device: torch.device) -> None:
    if config.jobs_per_gpu is not None and device.type == "cpu":
        raise ConfigError(
            "--jobs-per-gpu has no effect: this search runs on the CPU",
            fix="leave it out; --jobs sets the number of workers, by default one per core",
        )
    if config.cluster is not None and importlib.util.find_spec("distributed") is None:
        raise MachineError(
            f"--cluster {config.cluster} needs a package that is not installed: distributed",
            fix="pip install 'lepton-automl[dask]'",
        )
    if config.trains_elsewhere:
        most = 64  # The workers of hosts are not known yet.
    else:
        most = config.workers if device.type == "cpu" else torch.cuda.device_count()
    if not 1 <= config.final_jobs <= most:
        raise ConfigError(
            f"--final-jobs {config.final_jobs}, the rule is 1 to {most}, the number of "
            f"{'workers' if device.type == 'cpu' else 'GPUs'}",
            fix="leave it out, or give a smaller number",
        )


def _check_place(config: RunConfig) -> None:
    try:
        config.out.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ConfigError(
            f"--out {config.out}: {error.strerror}", fix="give a shorter name with --out"
        ) from error
    check_not_held(config.out)
    if not config.fresh and (folder := RunFolder(config.out)).definition_file.exists():
        folder.definition()  # Refuses another format at once, before any data is read.
    out = real_path(config.out)
    given = [locate_data(config.data)]
    given += [] if config.test is None else [locate_data(str(config.test))]
    for place in (Path(each.place) for each in given):
        if place.is_absolute() and place.is_dir() and out.is_relative_to(place):
            raise ConfigError(
                f"the run folder {config.out} lies inside the data {place}: the next command would "
                "read it as a class",
                fix="give a folder outside the data with --out",
            )


def _check_objectives(config: RunConfig) -> None:
    known = objective_names()
    for name in config.objectives:
        if name not in known:
            raise plugins.unknown_name(name, known, "objective")
    if "accuracy" not in config.objectives or len(set(config.objectives)) < len(config.objectives):
        raise ConfigError(
            f"--objective {','.join(config.objectives)!r}, the rule is accuracy and others, "
            "each once",
            fix="give for instance --objective accuracy,size_bytes",
        )


def define_run(
    config: RunConfig, resources: Resources, dataset: Dataset, space: SearchSpace
) -> tuple[Definition, Source]:
    """The definition of the run, and the run that it is warm-started from."""
    model = resources.latency_model
    definition = Definition(
        **data_places(config),
        skip_corrupt=config.skip_corrupt,
        **part_options(config),
        flip=config.flip,
        refit=config.refit,
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
