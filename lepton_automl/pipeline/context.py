"""One call of a command on one run: the data opened, the folder claimed, the ledger held."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from lepton_automl.config import RunConfig
from lepton_automl.core import files, plugins
from lepton_automl.core.events import Emit, Event
from lepton_automl.cost import targets
from lepton_automl.cost.latency_model import LatencyModel, estimate, read_table
from lepton_automl.cost.targets import Target
from lepton_automl.data import audit
from lepton_automl.data.dataset import Dataset, open_dataset
from lepton_automl.errors import ConfigError, InfeasibleError, MachineError
from lepton_automl.runs.folder import Definition, RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.runs.time_budget import start_seconds
from lepton_automl.search import callbacks
from lepton_automl.search.objectives import names as objective_names
from lepton_automl.search.space import loader
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.study import make_sampler
from lepton_automl.search.warm_start import Source, source

TINIEST, SMALL = 24, 64
"""Up to so many rows and columns pictures are for the space `tiny`, and for `residual`, or for
`tiny` if they are grey."""


@dataclass(frozen=True)
class Session:
    """What the stages work with."""

    config: RunConfig
    folder: RunFolder
    ledger: Ledger
    dataset: Dataset
    space: SearchSpace
    target: Target
    latency_model: LatencyModel | None
    """Tells latencies of the device the file is for; None: this machine measures them."""
    device: torch.device
    emit: Emit
    start_seconds: float = 0.0
    """What the command took to start: how slow this machine is at the moment."""

    @property
    def is_timed(self) -> bool:
        """Whether anything that was asked for is measured by the clock."""
        return self.config.asks_for_latency and self.latency_model is None

    def tell(self, stage: str, message: str) -> None:
        """Emit one line."""
        self.emit(Event(stage, message))


@contextmanager
def opened(config: RunConfig, emit: Emit) -> Iterator[Session]:
    """Resolve a configuration and hold its run folder until the block ends.

    Each step gives one frozen value and is taken once: resources, data, search space, folder,
    ledger.

    Raises
    ------
    DataError, ConfigError, MachineError
        If the data, the options or the folder cannot be used.
    """
    now = time.monotonic()
    started = now if config.started is None else config.started
    start = start_seconds(now - started, time.process_time())
    use_one_thread()
    resources = resolved(config)
    dataset = open_data(config, emit)
    known = space_for(config, resources, dataset)
    definition, warm = definition_of(config, resources, dataset, known)
    folder = claimed(config, definition, resources, known)
    with held(folder, started, config, emit) as (ledger, emit):
        if begun_with := warm.keep(ledger):
            emit(Event("search", begun_with))
        yield Session(
            config,
            folder,
            ledger,
            dataset,
            known,
            resources.target,
            resources.latency_model,
            resources.device,
            emit,
            start,
        )


def use_one_thread() -> None:
    """Compute on one thread in this process.

    Two threads of one training wait for each other at every step: on a core that is shared with
    anything else they are slower than one, and another number of threads gives other bits. numpy's
    matrix products too: the search's model would take the workers' cores.
    """
    torch.set_num_threads(1)
    threadpool_limits(1)


@dataclass(frozen=True)
class Resources:
    """What the options name, before any data is read."""

    target: Target
    latency_model: LatencyModel | None
    latency_table: bytes | None
    """The file of `--latency-from`."""
    device: torch.device
    space: SearchSpace | None
    """None: chosen by the size of the pictures."""


def resolved(config: RunConfig) -> Resources:
    """Load what the options name, and check them.

    Raises
    ------
    ConfigError
        If an option is not known or has no effect.
    MachineError
        If the device or a package is missing.
    """
    _check_place(config)
    _check_objectives(config)
    make_sampler(config.sampler, config.seed)
    for name in config.callbacks:
        callbacks.load(name)
    target, device = targets.load(config.target), chosen_device(config.device)
    _check_jobs(config, device)
    table, model = None, estimate(target) if target.latency == "estimated" else None
    if config.latency_from is not None:
        model = read_table(config.latency_from)
        table = config.latency_from.read_bytes()
    known = None if config.space is None else loader.load(config.space)
    return Resources(target, model, table, device, known)


def open_data(config: RunConfig, emit: Emit) -> Dataset:
    """The samples in their parts, audited.

    Raises
    ------
    DataError
        If they cannot be used.
    """
    dataset = open_dataset(
        config.data,
        test=config.test,
        seed=config.seed,
        skip_corrupt=config.skip_corrupt,
        quarantine=RunFolder(config.out).quarantine,
        emit=emit,
    ).with_balance(config.balance)
    audit.emit_findings(dataset, emit)
    return dataset


def space_for(config: RunConfig, resources: Resources, dataset: Dataset) -> SearchSpace:
    """The search space that was named or that fits the pictures, without flips where so asked.

    Raises
    ------
    ConfigError
        If `no_flip` has no effect.
    """
    known = resources.space or loader.load(_default_space(dataset))
    if not config.no_flip:
        return known
    if True not in {value for knob in known.train_parameters("flip") for value in knob.values}:
        raise ConfigError(
            f"--no-flip has no effect: the search space {known.name} never flips pictures",
            fix="leave it out",
        )
    return known.with_fixed("flip", value=False)


def claimed(
    config: RunConfig, definition: Definition, resources: Resources, known: SearchSpace
) -> RunFolder:
    """The folder, claimed for this run, with copies of its search space and latency table.

    Raises
    ------
    ConfigError
        If another run or something else lies there.
    """
    folder = RunFolder(config.out)
    folder.claim(definition, fresh=config.fresh)
    files.write(folder.space_file, known.text)
    if resources.latency_table is not None:
        files.write(folder.latency_file, resources.latency_table)
    return folder


@contextmanager
def held(
    folder: RunFolder, started: float | None, config: RunConfig, emit: Emit
) -> Iterator[tuple[Ledger, Emit]]:
    """The ledger until the block ends, and where to emit so that `lepton status` sees it.

    A run that could train nothing leaves no folder.
    """
    ledger, is_empty = Ledger(folder.ledger, since=started), False
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
            folder.discard()  # Or the corrected limit would be refused as another definition.


def _command(config: RunConfig) -> dict[str, Any]:
    """What those who watch are told of the command; `words` is empty for a call from Python."""
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
    """The device that `auto`, `cpu` or `cuda` means here.

    Raises
    ------
    MachineError
        If CUDA is asked for and torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            "--device cuda: torch sees no CUDA device here",
            fix="use --device cpu, or install a CUDA build of torch",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_jobs(config: RunConfig, device: torch.device) -> None:
    if config.jobs_per_gpu is not None and device.type == "cpu":
        raise ConfigError(
            "--jobs-per-gpu has no effect: this search computes on the processor",
            fix="leave it out; --jobs says how many workers there are, by default one a core",
        )
    most = config.workers if device.type == "cpu" else torch.cuda.device_count()
    if not 1 <= config.final_jobs <= most:
        raise ConfigError(
            f"--final-jobs {config.final_jobs}, the rule is 1 to {most}: there are so many "
            f"{'workers' if device.type == 'cpu' else 'GPUs'}",
            fix="leave it out, or give fewer",
        )


def _check_place(config: RunConfig) -> None:
    out = config.out.resolve()
    for place in (config.data, config.test):
        if place is not None and Path(place).is_dir() and out.is_relative_to(Path(place).resolve()):
            raise ConfigError(
                f"the run folder {config.out} lies inside the data {place}, where the next command "
                "would take it for a class",
                fix="give a folder outside of the data with --out",
            )


def _check_objectives(config: RunConfig) -> None:
    known = objective_names()
    for name in config.objectives:
        if name not in known:
            raise plugins.unknown_name(name, known, "objective")
    if "accuracy" not in config.objectives or len(set(config.objectives)) < len(config.objectives):
        raise ConfigError(
            f"--objective {','.join(config.objectives)}: accuracy must be among them, each once",
            fix="write for instance --objective accuracy,size_bytes",
        )


def _default_space(dataset: Dataset) -> str:
    side = SMALL + 1 if dataset.size is None else max(dataset.size)
    if side <= (SMALL if dataset.channels == 1 else TINIEST):
        return "tiny"
    return "residual" if side <= SMALL else "mobile"


def definition_of(
    config: RunConfig, resources: Resources, dataset: Dataset, known: SearchSpace
) -> tuple[Definition, Source]:
    """What defines the run, and the run whose results it starts with."""
    model = resources.latency_model
    definition = Definition(
        data=absolute(config.data),
        test=absolute(str(config.test)) if config.test else "",
        skip_corrupt=config.skip_corrupt,
        no_flip=config.no_flip,
        balanced=dataset.train.is_balanced,
        data_fingerprint=dataset.fingerprint,
        space=known.name,
        space_digest=known.digest,
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
        known,
        samples=len(dataset.train),
        budget_seconds=config.seconds_in_all,
        fresh=config.fresh,
    )
    return replace(definition, warm_start=warm.place, warm_digest=warm.digest), warm


def absolute(path: str) -> str:
    """The path from the root where it exists; else the name, such as `digits`."""
    return str(Path(path).resolve()) if Path(path).exists() else path
