"""Load what the options of a run name, and check them against this machine and the data."""

from __future__ import annotations

import errno
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lepton_automl.config import RunConfig
from lepton_automl.core import plugins, untrusted_files
from lepton_automl.core.files import real_path
from lepton_automl.core.untrusted_files import JSON
from lepton_automl.cost import boards, targets
from lepton_automl.cost.boards import Board
from lepton_automl.cost.latency_model import LatencyModel, estimate, read_table
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import Dataset
from lepton_automl.data.folds import assign_folds, is_small
from lepton_automl.data.opening import locate_data
from lepton_automl.errors import ArchError, ConfigError, MachineError
from lepton_automl.metrics.rejection import samples_needed
from lepton_automl.models import formats
from lepton_automl.models.random_weights import random_net
from lepton_automl.option_texts import fold_count
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.lock import check_not_held
from lepton_automl.search import callbacks
from lepton_automl.search.executors.hosts_file import HostSpec, read_hosts
from lepton_automl.search.executors.measuring_host import measuring_host
from lepton_automl.search.objectives import names as objective_names
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.search.space.search_space import SearchSpace
from lepton_automl.search.study import make_sampler

_SPACES = {"pictures": "general", "signals": "signal", "audio": "audio"}
"""The search spaces without `--space`, for pictures and for signals: their known-good nets of
several sizes and resolutions are trained first, so that the data choose
(`search.proposals.portfolio`)."""


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
    measures: HostSpec | None = None
    """Host of `--hosts` on which latencies are measured; None: here, or they are predicted."""


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
    # The search reads it again and again; a wrong one is an error now.
    hosts = {} if config.hosts is None else read_hosts(config.hosts).hosts
    measures = measuring_host(hosts) if config.asks_for_latency else None
    if measures is not None:
        _check_measures(config, measures.name)
    board = None if config.board is None else boards.load(config.board)
    measures = measures if model is None else None
    return Resources(target, model, table, device, space, board, measures)


def _check_measures(config: RunConfig, host: str) -> None:
    """Check that latencies of a host are not compared with those of another machine."""
    marked = f"host {host} of {config.hosts} has measures = true"
    others = {*(config.formats or ()), config.shipped_format} - {"", formats.ONNX}
    if config.latency_from is not None:
        raise ConfigError(
            f"{marked}, and --latency-from {config.latency_from} has the latencies of a device",
            fix="leave one of them out: latencies of two machines cannot be compared",
        )
    if others:
        raise ConfigError(
            f"{marked}: it measures ONNX files, and files of further formats "
            f"({', '.join(sorted(others))}) are measured on this machine only",
            fix="leave --format and --ship out, or measures, so that this machine measures all",
        )


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


def _check_ship(config: RunConfig) -> None:
    """Check that the file formats are known, and that a limit on flash applies to what ships."""
    for name in _format_names(config):
        formats.load(name)
    if config.limits.max_flash_bytes is None or not config.ship:
        return
    if config.ship == formats.ONNX or formats.load(config.ship).main.endswith(".onnx"):
        raise ConfigError(
            f"a limit on flash applies to C code, and --ship {config.ship} ships an ONNX file",
            fix="leave --ship out: then C ships; or leave --board and --max-flash-kb out",
        )


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
    kind = "int16" if arch.front_end is not None else net.preprocessing.input_type
    samples = np.zeros((1, *arch.file_input), kind)
    golden = formats.Golden(samples, np.full((1, arch.classes), 1 / arch.classes, np.float32))
    for name in names:
        try:
            formats.load(name).files(net, formats.Words(dataset.class_names), golden)
        except ArchError as error:
            raise ConfigError(
                f"the format {name} cannot hold these nets: {error.what}", fix=error.fix
            ) from error


def check_reject(config: RunConfig, dataset: Dataset) -> None:
    """Check that the validation part can show the stated share of rejected samples.

    Raises
    ------
    ConfigError
        If it is too small, or the data are not pictures.
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


def _format_names(config: RunConfig) -> list[str]:
    """File formats that the options name or imply, each once."""
    stated = (*(config.formats or ()), config.shipped_format)
    return [name for name in dict.fromkeys(stated) if name]
