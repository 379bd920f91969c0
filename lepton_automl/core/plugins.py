"""Find plug-ins: a module in a plug-in folder or an entry point, named after its file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from typing import TYPE_CHECKING, TypeVar

from lepton_automl.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
_FOLDERS = {
    "layers": "lepton_automl.models.layers",
    "formats": "lepton_automl.models.formats",
    "sources": "lepton_automl.data.sources",
    "callbacks": "lepton_automl.search.callbacks",
}
"""Packages whose modules are plug-ins; other kinds come from entry points only."""


def names(folder: str) -> list[str]:
    """Names of all plug-ins of `folder`, built-in ones and entry points, sorted."""
    registered = {point.name for point in _entry_points(folder)}
    if folder not in _FOLDERS:
        return sorted(registered)
    package = importlib.import_module(_FOLDERS[folder])
    files = pkgutil.iter_modules(package.__path__)
    ours = {file.name for file in files if not file.name.startswith("_")}
    return sorted(ours | registered)


def load(folder: str, name: str, base: type[T]) -> type[T]:
    """Load the plug-in `name` of `folder`: the one subclass of `base` in its module.

    Raises
    ------
    ConfigError
        If there is no such plug-in; the message suggests the nearest known name.
    """
    ours = f"{_FOLDERS[folder]}.{name}" if folder in _FOLDERS else ""
    # Entry points come last: reading them takes 10 ms, and each layer of a saved net needs this.
    if ours and name.isidentifier() and name[0] != "_" and importlib.util.find_spec(ours):
        return _only_subclass(importlib.import_module(ours), base)
    for point in _entry_points(folder):
        if point.name == name:
            return _only_subclass(importlib.import_module(point.module), base)
    raise unknown_name(name, names(folder), f"{folder[:-1]} of lepton")


def unknown_name(
    name: str, known: list[str], kind: str, error: type[ConfigError] = ConfigError
) -> ConfigError:
    """The error for a `name` that is not in `known`; it suggests the nearest known name."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    article = "an" if kind[0] in "aeio" else "a"
    return error(
        f"{name!r} is not {article} {kind}", fix=f"{hint}choose one of: {', '.join(known)}"
    )


def _only_subclass(module: object, base: type[T]) -> type[T]:
    found = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, base)
        and not inspect.isabstract(member)
        and member.__module__ == getattr(module, "__name__", "")
    ]
    if len(found) != 1:
        raise ConfigError(
            f"plug-in {getattr(module, '__name__', module)!r} defines {len(found)} classes "
            f"derived from {base.__name__}, exactly one is the rule",
            fix="keep one class in the file; its file name is the plug-in's name",
        )
    return found[0]


def _entry_points(folder: str) -> list[EntryPoint]:
    from importlib.metadata import entry_points  # Loads parts of Python for mails and sockets.

    return list(entry_points(group=f"lepton_automl.{folder}"))
