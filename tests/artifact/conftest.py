from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _short_latency_rounds():
    """No test depends on how exact a latency is."""
    from lepton_automl.artifact import measurements

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurements, "SECONDS", 0.02)
        yield
