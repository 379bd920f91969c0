"""Recoveries of a few batches, so that the tests of what surrounds them are quick."""

from __future__ import annotations

import pytest

from lepton_automl.compress import recovery


@pytest.fixture(autouse=True)
def _short_recovery(monkeypatch):
    monkeypatch.setattr(recovery, "MIN_BATCHES", 12)
