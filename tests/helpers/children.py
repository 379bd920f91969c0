"""Child processes of a pipeline whose work is done in the test's own process.

A child spends two seconds on its imports. That a real one gives the same answer, ends with its
parent and survives a crash is tested where it is started (test_limited_process, test_verify,
test_external_load) and by every test that starts a command.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import pytest

from lepton_automl.artifact import verification_process
from lepton_automl.compress.external import load
from lepton_automl.core.limited_process import Message
from lepton_automl.models import format_server, format_session


def answer_here(patch: pytest.MonkeyPatch) -> None:
    """Verification and opening of external models run in this process."""
    for module in (verification_process, load):
        patch.setattr(module, "LimitedProcess", ProcessHere)
    answer_formats_here(patch)


def answer_formats_here(patch: pytest.MonkeyPatch) -> None:
    """Written files of formats are answered in this process."""
    patch.setattr(format_session, "LimitedProcess", FormatsHere)


class ProcessHere:
    """As `core.limited_process.LimitedProcess`: what passes between the two is text and bytes."""

    def __init__(self, program: str) -> None:
        (module,) = re.findall(r"from (\S+) import main", program)
        self._answer = importlib.import_module(module).answer

    def __enter__(self) -> ProcessHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    close = __exit__

    def call(self, fields: dict[str, Any], payload: bytes = b"", **_: object) -> Message:
        made = self._answer(Message(json.loads(json.dumps(fields)), payload))
        return Message(json.loads(json.dumps(made.fields)), made.payload)


class FormatsHere(ProcessHere):
    """As `ProcessHere`, for the process of `models.format_session`, which holds open files."""

    def __init__(self, program: str) -> None:
        self._answer = format_server.Server().answer
