"""Lepton: labelled data in, the smallest accurate int8 CNN out."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_automl.api import compress, export, pick, predict, run, search, status, verify

__version__ = "0.1.0"
__all__ = ["compress", "export", "pick", "predict", "run", "search", "status", "verify"]


class _Package(ModuleType):
    """The verbs stay functions when sub-packages of the same name (`search`) are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("lepton_automl.api"), name)
    raise AttributeError(f"module 'lepton_automl' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
