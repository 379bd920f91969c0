"""Read texts, paths, choices and flags of the command line without pydantic.

Newer versions of typer load it and build a validator for each option of a command, given or not,
which takes twice as long as loading numpy. What is not plain, and all errors, are left to typer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin


class PlainValues:
    """Base of a command, before typer's class, that reads plain values itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the command, and `--help`."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            typers = getattr(parameter, "get_runtime_param", None)
            annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
            if typers is not None and annotation is not None:
                parameter.get_runtime_param = _Reader(typers, annotation).itself
        return found


class _Reader:
    """Stands for what typer reads the values of one parameter with."""

    def __init__(self, typers: Any, annotation: Any) -> None:
        # Where it stands there already, a second one in front of it changes nothing.
        self._typers, self._annotation = typers, annotation

    def itself(self) -> _Reader:
        """What `get_runtime_param` returns."""
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of the parameter from what the command line, or its default, gives."""
        wanted = self._annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if isinstance(value, str):
            if wanted is Path:
                return Path(value)
            choices = get_args(wanted) if get_origin(wanted) is Literal else ()
            if (wanted is str and value.isascii()) or value in choices:
                return value
        elif wanted == list[Path] and all(isinstance(each, str) for each in value):
            return [Path(each) for each in value]
        elif wanted in (int, float) and type(value) is wanted:
            return value  # A default.
        return self._typers().coerce(value, param=param, ctx=ctx)
