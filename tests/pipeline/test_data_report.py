from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lepton_automl.config import RunConfig
from lepton_automl.core.events import silent
from lepton_automl.pipeline import data_report
from lepton_automl.pipeline.data_report import report_data
from tests.helpers.pictures import random_pictures, write_npz


@pytest.fixture(autouse=True)
def only_statistics(monkeypatch):
    """No search for faults, and blocks of some pictures."""
    monkeypatch.setattr(data_report, "full_audit", lambda *_: ())
    monkeypatch.setattr(data_report, "find_label_suspects", lambda *_: None)
    monkeypatch.setattr(data_report, "_BLOCK", 70_000)


def config(folder, x):
    data = write_npz(folder / "a.npz", x=x, y=np.arange(len(x)) % 2)
    return RunConfig(data, folder, group="none")


def test_statistics_are_those_of_all_pixels_at_once(tmp_path):
    x = random_pictures(300, (32, 32, 3))
    x[..., 1] //= 2
    report = report_data(config(tmp_path, x), silent)
    for part in report.parts:
        pixels = report.dataset.part(part.name).pictures.astype(np.float64)
        assert part.channel_means == pytest.approx(pixels.mean((0, 1, 2)), rel=1e-12)
        assert part.channel_deviations == pytest.approx(pixels.std((0, 1, 2)), rel=1e-12)


def test_statistics_take_less_memory_than_the_pixels_in_float64(tmp_path):
    x = random_pictures(1_000, (32, 32, 3))
    try:
        report_data(config(tmp_path, x), silent, lambda _: tracemalloc.start())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * x.nbytes
