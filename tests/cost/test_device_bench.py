from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from lepton_automl.core.machine import REPORTED_FLAGS, this_machine
from lepton_automl.cost import device_bench


def test_the_program_needs_nothing_but_numpy_and_onnxruntime():
    tree = ast.parse(Path(device_bench.__file__).read_text())
    wanted = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    wanted |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    others = {name.split(".")[0] for name in wanted} - set(sys.stdlib_module_names)
    assert others == {"numpy", "onnxruntime"}


@pytest.mark.parametrize("seed", range(5))
def test_prices_are_the_non_negative_least_squares_of_relative_errors(seed):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0, 5, (60, 8)) * 10.0 ** rng.integers(0, 6, 8)
    times = rows @ (rng.uniform(-0.3, 1, 8).clip(0) / rows.mean(0)) + rng.uniform(0.1, 0.3, 60)
    ours = device_bench.fit_nonnegative(rows, times)
    theirs, _ = nnls(rows / times[:, None], np.ones(60))
    assert (ours >= 0).all()
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-9 * theirs.max())


def test_errors_are_of_nets_that_were_held_back():
    rng = np.random.default_rng(0)
    rows = rng.uniform(1, 5, (40, 3))
    exact = rows @ np.array([1.0, 2.0, 0.5])
    assert device_bench.cross_validated(rows, exact).max() < 1e-5
    many = rng.uniform(1, 5, (12, 11))
    noise = rng.uniform(1, 5, 12)
    seen = np.abs(many @ device_bench.fit_nonnegative(many, noise) / noise - 1)
    assert np.median(device_bench.cross_validated(many, noise)) > np.median(seen)


def test_the_machine_is_told_as_everywhere_else():
    found, here = device_bench.machine(), this_machine()
    assert device_bench.NOTED_FLAGS == REPORTED_FLAGS
    assert found["cpu"] == here.cpu
    assert tuple(found["flags"]) == here.flags


def test_the_table_is_the_sum_of_what_was_timed(tmp_path, monkeypatch):
    seconds = {"a.onnx": 3e-4, "b.onnx": 5e-4, "reference.onnx": 1e-4}
    monkeypatch.setattr(device_bench, "open_call", lambda path: path.name)
    monkeypatch.setattr(device_bench, "time_pair", lambda own, unit: (seconds[own], seconds[unit]))
    nets = [
        {"file": name, "net": name, "features": {"call": 1.0, "conv.macs": macs}}
        for name, macs in [("a.onnx", 1e5), ("b.onnx", 2e5)] * 10
    ]
    listed = {"features": ["call", "conv.macs"], "nets": nets}
    (tmp_path / "nets.json").write_text(json.dumps(listed))
    table = device_bench.bench(tmp_path)
    assert table["reference_ms"] == pytest.approx(0.1)
    assert table["nanoseconds"] == pytest.approx({"call": 1e5, "conv.macs": 2.0}, rel=1e-4)
    assert table["nets"][1]["ratio"] == pytest.approx(5)
    assert table["nets"][1]["milliseconds"] == pytest.approx(0.5)
    assert table["error"]["most"] < 1e-3
