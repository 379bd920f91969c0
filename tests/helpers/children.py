"""Child processes of a pipeline whose work is done in the test's own process.

A child spends two seconds on its imports. That a real one gives the same answer, ends with its
parent and survives a crash is tested where it is started (test_verify, test_external_load) and by
every test that starts a command.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lepton_automl import errors
from lepton_automl.artifact import measurements, verify
from lepton_automl.compress.external import load


def answer_here(patch: pytest.MonkeyPatch) -> None:
    """Verification and opening of external models run in this process, latency rounds briefly."""
    for module in (verify, load):
        patch.setattr(module, "run_json", run_json)
    patch.setattr(measurements, "SECONDS", 0.02)


def run_json(program: str, request: str, what: str, signal_error: Callable[..., Any]) -> Any:
    """As `core.subprocesses.run_json`: what passes between the two is text only."""
    (module,) = re.findall(r"from (\S+) import main", program)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "stdin", io.StringIO(request))
        importlib.import_module(module).main()
    answer = json.loads(out.getvalue())
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["what"], fix=answer["fix"])
    return answer
