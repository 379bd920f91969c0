"""`lepton spaces`: the search spaces there are, and what one of them chooses."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_automl.cli import options as o

if TYPE_CHECKING:
    from lepton_automl.search.space.search_space import SearchSpace

SAMPLES = 60
"""Architectures that are drawn to tell the range of MACs and bytes."""
CLASSES = 10
"""Classes that are assumed for it."""

Name = Annotated[
    str | None,
    typer.Argument(help="One to explain: a name, or the path of a TOML file of your own."),
]
Targets = Annotated[bool, typer.Option("--targets", help="List the target presets instead.")]


def spaces(name: Name = None, targets: Targets = False, json: o.Json = False) -> None:
    """List the search spaces, or explain NAME: its choices, its size, what its nets cost."""
    if targets:
        document = {"targets": _targets()}
    elif name is None:
        document = {"spaces": _spaces()}
    else:
        document = explained(name)
    if json:
        typer.echo(jsonlib.dumps(document))
    else:
        _show(document)


def explained(name: str) -> dict[str, Any]:
    """What `lepton spaces NAME --json` prints.

    Raises
    ------
    SpaceError
        If there is no such space or its file is wrong.
    """
    from lepton_automl.cost import cost
    from lepton_automl.cost.targets import load
    from lepton_automl.search.space import (  # they need torch, and --help must not wait for it
        draw,
        loader,
    )

    found = loader.load(name)
    limit = load().weight_limit
    drawn = [found.example_arch(draw.RandomTrial(seed)) for seed in range(SAMPLES)]
    costs = [cost.static_cost(arch, limit) for arch in drawn]
    candidates = []
    for label, given in zip(found.candidate_names, found.candidates, strict=True):
        one = cost.static_cost(found.example_arch(draw.RandomTrial(0, given)), limit)
        row = {"name": label, "macs": one.macs, "size_bytes": one.size_bytes, "parameters": given}
        candidates.append(row)
    return {
        **_summary(found),
        "example": {"input": list(found.example), "classes": CLASSES, "samples": SAMPLES},
        "macs": _spread([one.macs for one in costs]),
        "size_bytes": _spread([one.size_bytes for one in costs]),
        "choices": {path: list(knob.values) for path, knob in found.parameters().items()},
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
        {**_summary(found), "candidates": list(found.candidate_names)}
        for found in map(loader.load, loader.names())
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
    table = _table("target", "weights", "channels in", "latency", "")
    for row in rows:
        step = row["channel_step"]["dense"]
        table.add_row(
            row["name"], f"±{row['weight_limit']}", f"{step}s", row["latency"], row["note"]
        )
    _print(table)


def _show_spaces(rows: list[dict[str, Any]]) -> None:
    table = _table("space", "for", "choices", "points", "tried first")
    for row in rows:
        names = ", ".join(row["candidates"])
        table.add_row(
            row["name"], row["doc"], str(row["parameters"]), f"{row['points']:.1e}", names
        )
    _print(
        table, "`lepton spaces NAME` explains one; `--space NAME` or `--space FILE.toml` uses it."
    )


def _show_one(about: dict[str, Any]) -> None:
    choices = _table("choice", "values")
    for path, values in about["choices"].items():
        choices.add_row(path, _listed(values))
    costs = _table(f"as int8, {'x'.join(map(str, about['example']['input']))}", "kB", "MACs")
    for label in ("low", "median", "high"):
        row = (about["size_bytes"][label], about["macs"][label])
        costs.add_row(f"{label} of {about['example']['samples']} drawn", *_cost_cells(*row))
    for one in about["candidates"]:
        row = (one["size_bytes"], one["macs"])
        costs.add_row(f"candidate [b]{one['name']}[/b]", *_cost_cells(*row))
    size = f"{about['parameters']} choices, {about['points']:.1e} different settings"
    _print(f"[b]{about['name']}[/b]: {about['doc']}", choices, size, costs)


def _cost_cells(size_bytes: int, macs: int) -> tuple[str, str]:
    return f"{size_bytes / 1000:.1f}", f"{macs / 1e6:.2f} M"


def _listed(values: list[Any]) -> str:
    """A few values all, many as the first, the second and the last."""
    if len(values) <= 6:
        return ", ".join(map(str, values))
    return f"{values[0]}, {values[1]}, ... {values[-1]}"


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column in {"kB", "MACs", "choices", "points", "weights", "channels in"}
        table.add_column(column, justify="right" if is_number else "left")
    return table


def _print(*parts: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)
