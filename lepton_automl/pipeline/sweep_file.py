"""Read a sweep: a TOML file with options of `lepton run`, of which lists make a table of runs."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lepton_automl.config import LIMITS, RunConfig
from lepton_automl.core import untrusted_files
from lepton_automl.core.units import duration
from lepton_automl.errors import ConfigError, LeptonError
from lepton_automl.option_texts import seconds
from lepton_automl.pipeline import option_values
from lepton_automl.runs.folder import default_out
from lepton_automl.search.space.parameters import Keys, Scalar, SpaceFile

_RENAMED = {
    "objectives": "objective",
    "callbacks": "callback",
    "formats": "format",
    "budget_seconds": "budget",
}
"""Field of `RunConfig` -> parameter of `lepton run`."""
_NO_OPTIONS = {"limits", "data_object", "started", "out", "fresh"}
_OWN = {
    "out": "the folder of each run is OUT/NAME; give the folder of the sweep with --out",
    "fresh": "a sweep continues its runs; for new ones give another folder with --out",
}
"""Options of `lepton run` that a sweep sets itself, and what to do in their place."""
_MAX_CELLS = 10_000
_MAX_NAME = 100
"""Characters of the name of a cell."""

Options: TypeAlias = Mapping[str, Scalar]
"""Options of one run by their names on the command line without `--`, and `data`."""
Configure: TypeAlias = Callable[[str, dict[str, Any]], RunConfig]
"""Makes the configuration of a run from its data and the arguments of `api.run`."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Name of its folder in that of the sweep."""
    options: Options

    def words(self, out: Path) -> list[str]:
        """The words of its `lepton` command, which prints JSON only, with the run folder `out`."""
        given = [(k, v) for k, v in self.options.items() if k != "data" and v is not False]
        # A store holds one run.
        given = [(k, f"{v}/{out.name}" if k == "store" else v) for k, v in given]
        options = [f"--{k}" if v is True else f"--{k}={v}" for k, v in given]
        place = f"--out={out}"
        return ["run", "--quiet", "--json", place, *options, "--", str(self.options["data"])]


@dataclass(frozen=True)
class Sweep:
    """A table of runs."""

    path: Path
    """The file that states it."""
    text: str
    """Its content."""
    doc: str
    cells: tuple[Cell, ...]
    varied: tuple[str, ...]
    """Options in which the cells differ, in the order of the file."""

    def with_budget(self, budget: str | None) -> Sweep:
        """Divide the time of the whole sweep among the cells that state no budget.

        Raises
        ------
        ConfigError
            If no cell takes a share, or nothing is left for them.
        """
        if budget is None:
            return self
        total = _seconds(budget)
        stated = [_seconds(c.options["budget"]) for c in self.cells if "budget" in c.options]
        free = len(self.cells) - len(stated)
        if not free:
            raise ConfigError(
                f"--budget {budget} has no effect: every cell states its budget, "
                f"{duration(sum(stated))} together",
                fix="leave it out, or remove `budget` from the sweep",
            )
        share = int((total - sum(stated)) / free)
        if share < 1:
            raise ConfigError(
                f"--budget {budget} leaves no time for {free} of the {len(self.cells)} cells",
                fix="give more, or take cells out of the sweep",
            )
        cells = (_with(c, {"budget": f"{share}s", **c.options}) for c in self.cells)
        return dataclasses.replace(self, cells=tuple(cells))

    def with_options(self, given: Options) -> Sweep:
        """Add options to every cell.

        Raises
        ------
        ConfigError
            If a cell states one of them itself.
        """
        for name, cell in itertools.product(given, self.cells):
            if name in cell.options:
                raise ConfigError(
                    f"--{name} and `{name}` of {self.path} both set the same option of the runs",
                    fix="leave one of them out",
                )
        cells = (_with(cell, {**cell.options, **given}) for cell in self.cells)
        return dataclasses.replace(self, cells=tuple(cells))

    def check(self, configure: Configure) -> None:
        """Check the options of every cell, before the first one runs.

        Raises
        ------
        ConfigError
            If a value is illegal; the message names the cell.
        """
        for cell in self.cells:
            given = {name.replace("-", "_"): value for name, value in cell.options.items()}
            data = str(given.pop("data"))
            try:
                configure(data, option_values.settings(_as_typed(given)))
            except LeptonError as error:
                what = f"{self.path}, cell {cell.name}: {error.what}"
                raise ConfigError(what, fix=error.fix) from error


def option_names() -> tuple[str, ...]:
    """Options of `lepton run` that a sweep may state, `data` first."""
    fields = [item.name for item in dataclasses.fields(RunConfig) if item.name not in _NO_OPTIONS]
    limits = [spec.option.removeprefix("--") for spec in LIMITS.values()]
    own = [_RENAMED.get(name, name).replace("_", "-") for name in fields]
    return (*own, *limits)


def read_sweep(path: Path) -> Sweep:
    """Read a sweep: the table `[run]`, and tables `[[row]]` that replace some of its options.

    A scalar is fixed, a list is a choice, `{ low, high, step }` a range. Each row stands for the
    product of its choices; without rows `[run]` is the only one.

    Raises
    ------
    ConfigError
        If the file cannot be read, an option is not known, a value has another type, no data are
        stated, or two cells are equal; the message names the line.
    """
    fix = "give a TOML file; docs/cli.md shows one"
    text = untrusted_files.read_text(path, untrusted_files.TOML, fix=fix, error=ConfigError)
    file = SpaceFile(str(path), text, ConfigError)
    file.check_names((), file.document, ("doc", "run", "row"), "section of a sweep")
    places: list[Keys] = [("row", number) for number in range(file.count("row"))]
    base, tables, count = _choices(file, ("run",)), [], 0
    for place in places or [("run",)]:
        table = base | _choices(file, place) if places else base
        if "data" not in table:
            raise file.error(place, "no data are stated", 'write data = "digits", or your data')
        count += _count(table)
        if count > _MAX_CELLS:
            what = f"it has more than {_MAX_CELLS} cells"
            raise file.error((), what, "split it into several sweeps")
        tables.append(table)
    options = [made for table in tables for made in _product(table)]
    _check_different(file, options)
    names = list(dict.fromkeys(name for made in options for name in made))
    varied = tuple(
        n for n in names if len({key({n: made[n]} if n in made else {}) for made in options}) > 1
    )
    cells = tuple(map(Cell, cell_names(options, varied), options))
    return Sweep(path, text, str(file.document.get("doc", "")), cells, varied)


def cell_names(options: Sequence[Options], varied: Sequence[str]) -> list[str]:
    """Names of cells by their data and the options in which they differ, each another one."""
    found = [_name(each, varied) for each in options]
    counts = Counter(found)
    return [
        f"{name}_{digest(each)}" if counts[name] > 1 else name
        for name, each in zip(found, options, strict=True)
    ]


def key(options: Options) -> str:
    """A text that is the same for the same options only."""
    return json.dumps(dict(options), sort_keys=True)


def digest(options: Options) -> str:
    """Eight hex digits of the options of a cell."""
    return hashlib.sha256(key(options).encode()).hexdigest()[:8]


def _name(options: Options, varied: Sequence[str]) -> str:
    parts = [default_out(str(options["data"])).name]
    for name in varied:
        if name != "data" and name in options:
            value = options[name]
            text = Path(value).stem if isinstance(value, str) and "/" in value else value
            parts.append(f"{name}={text}")
    found = re.sub(r"[^\w.=,+-]+", "-", "_".join(parts), flags=re.ASCII).lstrip(".-") or "cell"
    return found if len(found) <= _MAX_NAME else f"{found[:_MAX_NAME]}_{digest(options)}"


def _with(cell: Cell, options: dict[str, Scalar]) -> Cell:
    return dataclasses.replace(cell, options=options)


def _choices(file: SpaceFile, keys: Keys) -> dict[str, tuple[Scalar, ...]]:
    """Values of each option in the table at `keys`."""
    table, known = file.table(*keys), option_names()
    for name in table.keys() & _OWN.keys():
        raise file.error((*keys, name), f"{name} has no effect in a sweep", _OWN[name])
    file.check_names(keys, table, known, "option of `lepton run`")
    found = {}
    for name, value in table.items():
        place = (*keys, name)
        values = file.parameter(place, value).values
        for each in {type(value): value for value in reversed(values)}.values():
            if (wanted := _wanted(name, each)) is not None:
                raise file.error(place, f"{name} = {each!r}, the rule is {wanted}", "correct it")
        found[name] = values
    return found


def _kinds(name: str) -> set[type]:
    """Types of the values of an option in a sweep."""
    if name in {spec.option.removeprefix("--") for spec in LIMITS.values()}:
        return {int, float, str} if name == "max-macs" else {int, float}
    fields = {
        _RENAMED.get(item.name, item.name): item.name for item in dataclasses.fields(RunConfig)
    }
    hint = _HINTS[fields[name.replace("-", "_")]]
    kinds = {hint, *typing.get_args(hint)}
    if bool in kinds:
        return {bool}
    if name in ("budget", "max-memory", "jobs-per-gpu"):
        return {int, float, str} if name == "budget" else {int, str}
    # Texts such as 3 of --channels may stand without quotation marks, as on the command line.
    return {int} if int in kinds else {str, int}


_HINTS = typing.get_type_hints(RunConfig)


def _wanted(name: str, value: Scalar) -> str | None:
    """What the value of an option has to be; None where it is that."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    kinds = _kinds(name)
    if type(value) in kinds:
        return None
    return words[float] if float in kinds else words[next(k for k in words if k in kinds)]


def _as_typed(given: Mapping[str, Scalar]) -> dict[str, Any]:
    """Values as the parameters of `lepton run` have them."""
    made: dict[str, Any] = {}
    for name, value in given.items():
        is_number = type(value) in (int, float) and str in _kinds(name.replace("_", "-"))
        made[name] = str(value) if is_number else value
    repeated = {name: [made[name]] for name in ("callback", "format") if name in made}
    return made | repeated


def _count(table: Mapping[str, Sequence[Scalar]]) -> int:
    count = 1
    for values in table.values():
        count *= len(values)
    return count


def _product(table: Mapping[str, Sequence[Scalar]]) -> Iterator[Options]:
    for values in itertools.product(*table.values()):
        yield dict(zip(table, values, strict=True))


def _check_different(file: SpaceFile, options: Sequence[Options]) -> None:
    twice = [found for found, count in Counter(map(key, options)).items() if count > 1]
    if twice:
        raise file.error((), f"two cells are equal: {twice[0]}", "state each cell once")


def _seconds(budget: Scalar) -> float:
    return seconds(str(budget))
