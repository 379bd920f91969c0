"""Repeat a call that is killed at one of its writes, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest


class Killed(BaseException):
    """The process is gone."""


def until_done(
    monkeypatch: pytest.MonkeyPatch,
    files: ModuleType,
    call: Callable[[], Any],
    writes: Iterable[int],
) -> tuple[Any, int]:
    """The result of `call`, and how often it was made.

    Each time it is killed after as many calls of `files.write` as `writes` says, if it needs more.
    """
    write, left, tries = files.write, 0, 0

    def dying(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return write(*given)

    monkeypatch.setattr(files, "write", dying)
    for number in writes:
        left, tries = number, tries + 1
        try:
            return call(), tries
        except Killed:
            continue
    raise AssertionError("it was killed every time")
