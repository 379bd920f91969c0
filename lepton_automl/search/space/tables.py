"""Tables of a search space: layers or optimizers to choose from, with their fields."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lepton_automl.core import plugins
from lepton_automl.errors import ArchError, ConfigError, LeptonError
from lepton_automl.models.layers import Layer
from lepton_automl.search.space.parameters import Choice, Keys, Parameter, Range, Scalar, SpaceFile
from lepton_automl.training.recipe import Recipe

Fields: TypeAlias = Mapping[str, tuple[str, Parameter]]
"""Field name -> (parameter path, parameter)."""
Checks: TypeAlias = dict[str, tuple[Any, Callable[[Any], object]]]
"""Field name -> (default, function that raises a LeptonError for an illegal value)."""


@dataclass(frozen=True)
class SpaceTable:
    """A table of the file: layer types (or optimizers), their number and their fields."""

    path: str
    selector: tuple[str, Choice]
    """Path and names of the layer types (or optimizers) to choose from."""
    fields: Mapping[str, Fields]
    """Fields of each of those names."""
    depth: Parameter
    layer_types: Mapping[str, type[Layer]]
    """Layer classes by name; empty for optimizers."""

    @property
    def all_parameters(self) -> dict[str, Parameter]:
        """All parameters by path; depth and selector come first."""
        found: dict[str, Parameter] = {
            f"{self.path}.depth": self.depth,
            self.selector[0]: self.selector[1],
        }
        for fields in self.fields.values():
            found |= dict(fields.values())
        return found

    @property
    def points(self) -> int:
        """Number of different points, without the parameters of `[all]`."""
        each = sum(
            math.prod(
                len(parameter.values)
                for path, parameter in fields.values()
                if not path.startswith("all.")
            )
            for fields in self.fields.values()
        )
        empty = 0 in self.depth.values
        return (len(self.depth.values) - empty) * each + empty


def layer_table(file: SpaceFile, keys: Keys, path: str, only: str | None = None) -> SpaceTable:
    """Read `[stem]`, a `[[stage]]` or `[head]`; `only` is the one layer type allowed there.

    Raises
    ------
    SpaceError
        If a name is unknown or a value illegal.
    """
    raw = file.table(*keys)
    given = only or raw.pop("layer", None)
    if given is None:
        raise file.error(keys, f"{path} has no layer", 'add a line such as: layer = "conv"')
    names = file.parameter((*keys, "layer"), given)
    if "head" in names.values and not only:
        what = f"{path}.layer = 'head', the rule is that the head comes last and once"
        raise file.error((*keys, "layer"), what, "describe it in [head]")
    kinds = {str(name): _layer(file, (*keys, "layer"), str(name)) for name in names.values}
    depth = file.parameter((*keys, "depth"), 1 if only else raw.pop("depth", 1))
    if not all(type(value) is int and 0 <= value <= 50 for value in depth.values):
        what = f"depth = {depth}, the rule is 0 to 50 layers"
        raise file.error((*keys, "depth"), what, "give depth legal values")
    checks = {name: layer_checks(kind) for name, kind in kinds.items()}
    fields = _read_fields(file, keys, path, raw, checks)
    shared = _read_all(file, kinds)
    merged = {name: shared[name] | fields[name] for name in kinds}
    return SpaceTable(path, (f"{path}.layer", Choice(tuple(kinds))), merged, depth, kinds)


def train_table(file: SpaceFile) -> SpaceTable:
    """Read `[train]`: the fields of `Recipe`.

    Raises
    ------
    SpaceError
        If a name is unknown or a value illegal.
    """
    raw = file.table("train")
    keys: Keys = ("train", "optimizer")
    names = file.parameter(keys, raw.pop("optimizer", Recipe().optimizer))
    values = tuple(str(name) for name in names.values)
    recipe = {item.name: item.default for item in dataclasses.fields(Recipe)}
    checks: Checks = {
        name: (default, lambda value, name=name: Recipe(**{name: value}))  # type: ignore[misc]
        for name, default in recipe.items()
    }
    own = checks.pop("optimizer")
    for value in values:
        _check_value(file, keys, value, own)
    fields = _read_fields(file, ("train",), "train", raw, dict.fromkeys(values, checks))
    return SpaceTable("train", ("train.optimizer", Choice(values)), fields, Choice((1,)), {})


def layer_checks(kind: type[Layer]) -> Checks:
    """Checks of the fields that a file may set: all but those of `with_input_channels`."""
    found: Checks = {}
    for name, about in kind.searchable_fields().items():
        default = getattr(kind(), name)
        other = about["choices"][-1] if about["kind"] == "choice" else default + 1
        if getattr(kind(**{name: other}).with_input_channels(24), name) == other:
            found[name] = (default, functools.partial(_construct, kind, name, about["kind"]))
    return found


def _construct(kind: type[Layer], name: str, sort: str, value: Any) -> None:
    layer = kind(**{name: value})
    if sort == "width" and value == 0 and getattr(kind(), name) != 0:
        raise ArchError(
            f"{type(layer).__name__}: {name} = 0, the rule is 1 to 4096 channels",
            fix=f"give {name} a legal value",
        )


def _read_fields(
    file: SpaceFile, keys: Keys, path: str, raw: dict[str, Any], checks: dict[str, Checks]
) -> dict[str, dict[str, tuple[str, Parameter]]]:
    """Fields of each name in `checks`: those of the table and of its own sub-table."""
    found: dict[str, dict[str, tuple[str, Parameter]]] = {name: {} for name in checks}
    known = sorted({field for fields in checks.values() for field in fields})
    for field, value in raw.items():
        if field in checks:
            _own_fields(file, (*keys, field), path, field, checks[field], found[field])
            continue
        if field not in known:
            raise file.unknown((*keys, field), [*known, *checks], f"field of {path}")
        parameter = _read_parameter(
            file, (*keys, field), value, [c[field] for c in checks.values() if field in c]
        )
        for name in checks:
            if field in checks[name]:
                found[name].setdefault(field, (f"{path}.{field}", parameter))
    return found


def _own_fields(
    file: SpaceFile, keys: Keys, path: str, name: str, checks: Checks, found: dict[str, Any]
) -> None:
    for field, value in file.table(*keys).items():
        if field not in checks:
            raise file.unknown((*keys, field), list(checks), f"field of {name}")
        parameter = _read_parameter(file, (*keys, field), value, [checks[field]])
        found[field] = (f"{path}.{name}.{field}", parameter)


def _read_all(
    file: SpaceFile, kinds: dict[str, type[Layer]]
) -> dict[str, dict[str, tuple[str, Parameter]]]:
    """Fields that `[all]` sets for each of these layer types."""
    found: dict[str, dict[str, tuple[str, Parameter]]] = {name: {} for name in kinds}
    for field, value in file.table("all").items():
        for name, kind in kinds.items():
            checks = layer_checks(kind)
            if field in checks:
                parameter = _read_parameter(file, ("all", field), value, [checks[field]])
                found[name][field] = (f"all.{field}", parameter)
    return found


def check_all(file: SpaceFile, kinds: list[type[Layer]]) -> None:
    """Raise an error for a field in `[all]` that no layer of the space has."""
    known = sorted({name for kind in kinds for name in layer_checks(kind)})
    file.check_names(("all",), file.table("all"), known, "field of any layer here")


def _read_parameter(
    file: SpaceFile, keys: Keys, value: Any, checks: list[tuple[Any, Callable[[Any], object]]]
) -> Parameter:
    """The parameter at `keys`; all its values must pass all `checks`."""
    parameter = file.parameter(keys, value)
    if isinstance(checks[0][0], float):
        parameter = _as_float(parameter)
    for check in checks:
        for item in parameter.values:
            _check_value(file, keys, item, check)
    return parameter


def _check_value(
    file: SpaceFile, keys: Keys, value: Scalar, check: tuple[Any, Callable[[Any], object]]
) -> None:
    """Raise an error for a value that `check` rejects or whose type differs from the default."""
    default, build = check
    if type(value) is not type(default):
        what = f"{keys[-1]} = {value!r} has another type than {default!r}"
        raise file.error(keys, what, f"give {keys[-1]} values of that type")
    try:
        build(value)
    except LeptonError as error:
        raise file.error(keys, error.what, error.fix) from error


def _as_float(parameter: Parameter) -> Parameter:
    def real(value: Any) -> Any:
        return float(value) if type(value) is int else value

    if isinstance(parameter, Range):
        return Range(real(parameter.low), real(parameter.high), real(parameter.step))
    return Choice(tuple(real(value) for value in parameter.values))


def _layer(file: SpaceFile, keys: Keys, name: str) -> type[Layer]:
    try:
        return plugins.load("layers", name, Layer)  # type: ignore[type-abstract]
    except ConfigError as error:
        raise file.error(keys, error.what, error.fix) from error
