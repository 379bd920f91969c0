"""`lepton spaces`: list the search spaces, or show the parameters and costs of one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_automl.cli import options as o
from lepton_automl.cli.streams import write_json

if TYPE_CHECKING:
    from lepton_automl.search.space.search_space import SearchSpace

_SAMPLES = 60
"""Random architectures from which the range of MACs and bytes is taken."""
_MOST_WEIGHTS = 1 << 27
"""Weights of all of them together, after which no further one is drawn."""
_CLASSES = 10

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="Search space to explain: a name of the list, or a TOML file."
    ),
]
Targets = Annotated[bool, o.option("--targets", "List the processors for --target instead.")]


def spaces(name: Name = None, targets: Targets = False, json: o.Json = False) -> None:
    """List the search spaces, or show the parameters of one."""
    if targets:
        document = {"targets": _targets()}
    elif name is None:
        document = {"spaces": _spaces()}
    else:
        document = explained(name)
    if json:
        write_json(document)
    else:
        _show(document)


def explained(name: str) -> dict[str, Any]:
    """The JSON object of `lepton spaces NAME --json`.

    Raises
    ------
    SpaceError
        If there is no such space or its file is wrong.
    """
    from lepton_automl.cost import cost
    from lepton_automl.cost.targets import load
    from lepton_automl.search.space import (  # torch is slow to import; --help must not wait
        draw,
        loader,
    )

    space = loader.load(name)
    limit = load().weight_limit
    costs, weights = [], 0
    for seed in range(_SAMPLES):
        arch = space.example_arch(draw.RandomTrial(seed))
        costs.append(cost.static_cost(arch, limit))
        weights += arch.weights
        if weights > _MOST_WEIGHTS:
            break
    candidates = []
    for label, given in zip(space.candidate_names, space.candidates, strict=True):
        one = cost.static_cost(space.example_arch(draw.RandomTrial(0, given)), limit)
        row = {"name": label, "macs": one.macs, "size_bytes": one.size_bytes, "parameters": given}
        candidates.append(row)
    return {
        **_summary(space),
        "example": {"input": list(space.example), "classes": _CLASSES, "samples": len(costs)},
        "macs": _spread([one.macs for one in costs]),
        "size_bytes": _spread([one.size_bytes for one in costs]),
        "choices": {path: list(parameter.values) for path, parameter in space.parameters().items()},
        "candidates": candidates,
    }


def _summary(space: SearchSpace) -> dict[str, Any]:
    return {
        "name": space.name,
        "doc": space.doc,
        "digest": space.digest,
        "parameters": len(space.parameters()),
        "points": space.points,
    }


def _spaces() -> list[dict[str, Any]]:
    from lepton_automl.search.space import loader

    return [
        {**_summary(space), "candidates": list(space.candidate_names)}
        for space in map(loader.load, loader.names())
    ]


def _targets() -> list[dict[str, Any]]:
    from lepton_automl.cost import targets

    return [dataclasses.asdict(targets.load(name)) for name in targets.names()]


def _spread(values: list[int]) -> dict[str, int]:
    ordered = sorted(values)
    return {"low": ordered[0], "median": ordered[len(ordered) // 2], "high": ordered[-1]}


def _show(document: dict[str, Any]) -> None:
    if "targets" in document:
        _show_targets(document["targets"])
    elif "spaces" in document:
        _show_spaces(document["spaces"])
    else:
        _show_one(document)


def _show_targets(rows: list[dict[str, Any]]) -> None:
    table = _table("target", "weights", "channel multiple", "latency", "")
    for row in rows:
        step = row["channel_step"]["dense"]
        table.add_row(row["name"], _weights(row), str(step), row["latency"], row["note"])
    _print(table)


def _weights(row: dict[str, Any]) -> str:
    """Limits of weights, and what has a scale of its own where that is not a channel."""
    limit = f"±{row['weight_limit']}"
    return limit if row["weight_scales"] == "channel" else f"{limit} a {row['weight_scales']}"


def _show_spaces(rows: list[dict[str, Any]]) -> None:
    table = _table("space", "for", "parameters", "combinations", "tried first")
    for row in rows:
        names = ", ".join(row["candidates"])
        table.add_row(
            row["name"], row["doc"], str(row["parameters"]), f"{row['points']:.1e}", names
        )
    _print(table, "`lepton spaces NAME` shows one; `--space NAME` or `--space FILE.toml` uses it.")


def _show_one(about: dict[str, Any]) -> None:
    from rich.text import Text

    choices = _table("parameter", "values")
    for path, values in about["choices"].items():
        choices.add_row(path, _listed(values))
    costs = _table(f"as int8, {'x'.join(map(str, about['example']['input']))}", "kB", "MACs")
    for label in ("low", "median", "high"):
        row = (about["size_bytes"][label], about["macs"][label])
        costs.add_row(f"{label} of {about['example']['samples']} random nets", *_cost_cells(*row))
    for one in about["candidates"]:
        row = (one["size_bytes"], one["macs"])
        costs.add_row(Text.assemble("known-good net ", (one["name"], "bold")), *_cost_cells(*row))
    size = f"{about['parameters']} parameters, {about['points']:.1e} combinations"
    _print(Text.assemble((about["name"], "bold"), f": {about['doc']}"), choices, size, costs)


def _cost_cells(size_bytes: int, macs: int) -> tuple[str, str]:
    return f"{size_bytes / 1000:.1f}", f"{macs / 1e6:.2f} M"


def _listed(values: list[Any]) -> str:
    """All of a few values, else the first two and the last."""
    if len(values) <= 6:
        return ", ".join(map(str, values))
    return f"{values[0]}, {values[1]}, ... {values[-1]}"


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column in {
            "kB",
            "MACs",
            "parameters",
            "weights",
            "channel multiple",
            "combinations",
        }
        table.add_column(column, justify="right" if is_number else "left")
    return table


def _print(*parts: Any) -> None:
    from lepton_automl.cli.report import show

    for part in parts:
        show(part)
