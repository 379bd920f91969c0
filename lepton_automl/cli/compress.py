"""`lepton compress`: make the winner of a search, or any float ONNX classifier, smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_automl.cli import options as o
from lepton_automl.config import Limits, Prefer, RunConfig, seconds
from lepton_automl.errors import ConfigError, DataError

Source = Annotated[
    Path,
    typer.Argument(
        help="A run; or with --data a float ONNX classifier, or a folder with arch.json and "
        "weights.safetensors."
    ),
]
Pictures = Annotated[
    str | None,
    typer.Option(
        "--data", help="For a model of yours: pictures it knows, best ones it was not trained on."
    ),
]
Preprocessing = Annotated[
    Path | None,
    typer.Option(
        "--preprocessing",
        help="TOML or JSON with scale, mean, std and order: how the model wants its pixels.",
    ),
]


def compress(
    source: Source,
    data: Pictures = None,
    test: o.Test = None,
    preprocessing: Preprocessing = None,
    out: o.Out = None,
    max_latency_ms: o.MaxLatency = None,
    max_size_kb: o.MaxSize = None,
    max_macs: o.MaxMacs = None,
    max_ram_kb: o.MaxRam = None,
    min_accuracy: o.MinAccuracy = None,
    max_drop: o.MaxDrop = None,
    per_class_max_drop: o.MaxClassDrop = None,
    prefer: o.PreferName = "size",
    target: o.TargetName = "x86-any",
    seed: o.Seed = 0,
    skip_corrupt: o.SkipCorrupt = False,
    budget: o.Budget = None,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Prune, recover and quantize the best net of a run, or quantize a model made elsewhere.

    Of a run every accepted step is kept; the same command again goes on after the last one. With
    limits its best net is pruned until it keeps them, in a folder of its own, and proven. A model
    of yours is quantized so that it keeps its accuracy, with a few layers in float if need be, and
    its written file is proven on the test part.
    """
    limits = o.limits(
        max_latency_ms, max_size_kb, max_macs, max_ram_kb, min_accuracy, max_drop,
        per_class_max_drop,
    )  # fmt: skip
    stated = {
        "--test": test, "--preprocessing": preprocessing, "--out": out, "--seed": seed,
        "--skip-corrupt": skip_corrupt, "a limit": limits.stated,
        "--prefer": prefer != "size", "--target": target != "x86-any",
    }  # fmt: skip
    if data is None:
        _check_run(stated, has_limits=bool(limits.stated))
        changes = {"budget_seconds": None if budget is None else seconds(budget)}
        config = _of_run(source, **changes, device=device, started=o.BEGUN)
        _compress_run(config, limits, o.preference(prefer), out, quiet=quiet, json=json)
        return
    folder = out or Path("runs", f"{source.stem}-int8")
    if source.is_dir():
        _check_no_effect({"--preprocessing": preprocessing}, "put a model.json into the folder")
        config = o.config(
            data, folder, budget, "accuracy,latency_ms,size_bytes", test=test, limits=limits,
            prefer=prefer, target=target, seed=seed, skip_corrupt=skip_corrupt,
            device=device,
        )  # fmt: skip
        _compress_net(config, source, quiet=quiet, json=json)
        return
    _check_no_effect(
        {"--budget": budget, "--device": device != "auto"},
        "a model made elsewhere is not trained, so it takes minutes on one core: leave it out",
    )
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # torch is slow to import; --help must not wait
    from lepton_automl.pipeline.compress_onnx import Order, compress_model

    order = Order(
        source, data, folder, test, preprocessing, limits, o.preference(prefer), target, seed,
        skip_corrupt,
    )  # fmt: skip
    with progress.screen(quiet=quiet) as emit:
        outcome = compress_model(order, emit=emit)
    report.show_verdict(outcome, json=json)


def _compress_net(config: RunConfig, source: Path, *, quiet: bool, json: bool) -> None:
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # torch is slow to import; --help must not wait
    from lepton_automl.pipeline.compress_net import compress_net

    with progress.screen(quiet=quiet) as emit:
        try:
            outcome = compress_net(config, source, emit=emit)
        except ConfigError as error:  # `run` and `search` have --fresh, this command has not.
            if "--fresh" not in error.fix:
                raise
            raise ConfigError(error.what, fix="give another folder with --out") from error
    report.show_verdict(outcome, json=json)


def _check_run(stated: Mapping[str, object], *, has_limits: bool) -> None:
    """A run has its limits; others mean a folder of their own."""
    again = {"--out", "a limit", "--prefer"} if has_limits else set()
    _check_no_effect(
        {name: given for name, given in stated.items() if name not in again},
        "a run knows it already; for a model of yours give --data as well",
    )


def _of_run(run: Path, **changes: Any) -> RunConfig:
    """As the run was defined, with what may change."""
    from lepton_automl.runs.folder import configured, locate

    try:
        return configured(locate(run), **changes)
    except DataError as error:
        if run.suffix != ".onnx":
            raise
        raise DataError(
            error.what, fix=f"for a model of yours: lepton compress {run} --data PICTURES"
        ) from error


def _compress_run(
    config: RunConfig,
    limits: Limits,
    prefer: Prefer,
    out: Path | None,
    *,
    quiet: bool,
    json: bool,
) -> None:
    """As the run was defined; or within other limits, in a folder of its own."""
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # torch is slow to import; --help must not wait
    from lepton_automl.pipeline import run as pipeline

    if limits.stated:
        place = out or config.out.with_name(f"{config.out.name}-int8")
        own = dataclasses.replace(config, out=place, limits=limits, prefer=prefer)
        _compress_net(own, config.out / "models" / "best", quiet=quiet, json=json)
        return
    with progress.screen(quiet=quiet) as emit:
        steps = pipeline.compress(config, emit=emit)
    report.show_compression(steps, json=json)


def _check_no_effect(stated: Mapping[str, object], fix: str) -> None:
    for name, value in stated.items():
        if value:
            raise ConfigError(f"{name} has no effect here", fix=fix)
