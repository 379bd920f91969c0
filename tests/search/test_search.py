from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

search = importlib.import_module("lepton_automl.search")


def test_the_package_gives_the_search_lazily() -> None:
    assert callable(search.search)
    assert search.SearchWork.__name__ == "SearchWork"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        search.nothing  # noqa: B018


def test_the_ledger_is_read_without_torch_or_optuna() -> None:
    code = (
        "import sys, lepton_automl.runs.ledger; "
        "print([m for m in ('torch', 'optuna', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
