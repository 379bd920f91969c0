"""Compress a given net in lepton's format and verify the written file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from lepton_automl.artifact import manifest
from lepton_automl.config import RunConfig
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.events import Emit, silent
from lepton_automl.core.untrusted_files import WEIGHTS
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import ConfigError, DataError, LeptonError, first_line
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.network import Weights, build_network
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.pipeline import stages
from lepton_automl.pipeline.context import RunContext, open_run
from lepton_automl.pipeline.export import written_outcome
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.recipe import Recipe

_RECIPE = "recipe.json"


_NET = (
    "give a folder with arch.json and weights.safetensors, such as models/best of a run, or an "
    ".onnx file"
)


def compress_net(config: RunConfig, source: Path, *, emit: Emit = silent) -> Outcome:
    """Prune, fine-tune and quantize a net in lepton's format, write its artifact and verify it.

    Parameters
    ----------
    config : RunConfig
        Data, limits, folder; a budget is for all of it, without one there is no time limit.
    source : Path
        A folder with `arch.json` and `weights.safetensors`; optionally `model.json` with the
        preprocessing (default: pixels are normalised by the training part) and `recipe.json` with
        the training recipe that recovery follows.
    emit : callable
        Receives progress.

    Raises
    ------
    DataError
        If there is no such net, or it does not fit the data.
    ConfigError
        If the folder holds the compression of another net.
    """
    arch, weights, preprocessing, recipe = _read(source)
    with open_run(config, emit) as context:
        model = Model(arch, weights, preprocessing or context.dataset.preprocessing(arch.size))
        _check_kind(source, model, context)
        if preprocessing is not None:
            inputs = context.dataset.with_inputs(preprocessing.input_quantization)
            context = dataclasses.replace(context, dataset=inputs)
        _check(source, model, context)
        _save_best(model, recipe, context)
        if manifest.is_complete(context.folder.artifact):
            where = context.folder.artifact
            context.report("compress", f"already compressed: {where}; --fresh starts again")
            return written_outcome(context.folder.artifact)
        best, recipe = stages.winner(context)
        with stages.naming_best_net_on_interrupt(context):
            is_timed = config.budget_seconds is not None
            end = stages.compression_end(context) if is_timed else None
            is_aim = bool(config.limits.costs)
            stages.compress(context, best, recipe, end, is_aim=is_aim, may_refit=False)
            return stages.export_and_verify(context)


def _read(
    source: Path,
) -> tuple[Arch, Weights, Preprocessing | None, Recipe]:
    try:
        arch = Arch.from_json(untrusted_files.read_text(source / "arch.json", fix=_NET))
        tensors = load_tensors(
            untrusted_files.read_bytes(source / "weights.safetensors", WEIGHTS, fix=_NET)
        )
        about = source / "model.json"
        known = None
        if about.is_file():
            known = untrusted_files.read_json(about, fix=_NET, top=dict, finite=False)
            known = known["preprocessing"]
        recipe = source / _RECIPE
        weights = {name.removeprefix("w:"): t for name, t in tensors.items() if ":" not in name[2:]}
        build_network(arch, weights)
        return (
            arch,
            weights,
            None if known is None else Preprocessing.from_fields(known),
            Recipe.from_json(untrusted_files.read_text(recipe, fix=_NET))
            if recipe.is_file()
            else Recipe(),
        )
    except (
        LeptonError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        line = first_line(error)
        raise DataError(
            f"{source} does not hold a net of lepton: {line}",
            fix=_NET,
        ) from error


def _check(source: Path, model: Model, context: RunContext) -> None:
    names, channels = context.dataset.class_names, context.dataset.channels
    if (model.arch.classes, model.arch.channels) != (len(names), channels):
        own = model.arch.channels
        fix = "give the data that the net was trained for"
        is_choice = own in (1, 3, 4) and channels in (1, 3)
        if own != channels and is_choice and context.config.channels == "auto":
            fix += f", or --channels {own} if it was trained with that"
        raise DataError(
            f"{source} is for {model.arch.classes} classes and pictures with {own} channels, the "
            f"data have {len(names)} and {channels}",
            fix=fix,
        )
    files = context.dataset.decoded_files("validation", model.arch.size, context.folder.cache)
    share = float(is_correct(model, load_labelled(files), device=context.device).mean())
    stages.check_better_than_chance(
        str(source),
        share,
        len(names),
        why="its classes are in another order, or its pixels are normalised otherwise",
        fix="add a model.json with its preprocessing; name the classes in its order",
    )


def _check_kind(source: Path, model: Model, context: RunContext) -> None:
    """Refuse a net for signals of another length than the data, or for another kind of data."""
    arch, dataset = model.arch, context.dataset
    if arch.front_end != dataset.front_end:
        kinds = [
            "other samples than sound" if each is None else str(each)
            for each in (arch.front_end, dataset.front_end)
        ]
        raise DataError(
            f"{source} is for {kinds[0]}, the data give {kinds[1]}",
            fix="give the data that the net was trained for",
        )
    if not arch.is_signal and not dataset.is_signal:
        return
    given = (dataset.size[1], dataset.channels) if dataset.is_signal and dataset.size else None
    if arch.is_signal and arch.input == given:
        return
    own = "{} values in {} channels".format(*arch.input) if arch.is_signal else ""
    data = "pictures" if given is None else "signals of {} values in {} channels".format(*given)
    fix = "give the data that the net was trained for"
    if arch.is_signal and given is not None and arch.channels == given[1]:
        fix += f"; recordings are cut to its length with --window {arch.input[0]}"
    raise DataError(
        f"{source} is for {f'signals of {own}' if own else 'pictures'}, the data are {data}",
        fix=fix,
    )


def _save_best(model: Model, recipe: Recipe, context: RunContext) -> None:
    best = context.folder.best
    if (best / _RECIPE).is_file():
        if Model.load(best).digest != model.digest:
            raise ConfigError(
                f"{context.folder.path} holds the compression of another net",
                fix="give another folder with --out",
            )
        return
    model.save(best)
    files.write(best / _RECIPE, recipe.to_json() + "\n")
