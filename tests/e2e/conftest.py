from __future__ import annotations

import pytest

from tests.helpers.cli import Lepton


@pytest.fixture
def lepton(monkeypatch, capfd, tmp_path):
    """`lepton ARGUMENTS`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Lepton(monkeypatch, capfd)
