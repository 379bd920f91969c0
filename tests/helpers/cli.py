"""The command line called in this process, its stages replaced by fakes, for tests."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from lepton_automl.cli.app import main


@dataclass
class Fake:
    """Stands for a stage: remembers what it was asked, gives back what it was told to."""

    answer: Any
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    act: Callable[[], object] = lambda: None
    """What it does before it answers."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.asked.append((arguments, options))
        self.act()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    @property
    def config(self) -> Any:
        """The one configuration it was called with."""
        (((config,), _),) = self.asked
        return config


@dataclass(frozen=True)
class Done:
    """How a command ended and what it wrote."""

    exit_code: int
    out: str
    err: str


class Lepton:
    """`lepton ARGUMENTS`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["lepton", *arguments])
        handler, streams = signal.getsignal(signal.SIGTERM), (sys.stdout, sys.stderr)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
            sys.stdout, sys.stderr = streams
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *self._capfd.readouterr())

    def fake(self, place: str, answer: Any) -> Fake:
        """Put a fake with this answer in the place of a function of a module."""
        module, name = f"lepton_automl.{place}".rsplit(".", 1)
        stage = Fake(answer)
        self._monkeypatch.setattr(importlib.import_module(module), name, stage)
        return stage
