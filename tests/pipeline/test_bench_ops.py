from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lepton_automl.cost import device_bench
from lepton_automl.cost.latency_model import FEATURES, read_table
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.models.onnx_file import open_session
from lepton_automl.pipeline import bench_ops


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_ops, "_DRAWN", 2)
        bench_ops.write_kit(folder, ["tiny"])
    return folder


def test_a_kit_lists_every_file_and_every_feature_occurs(kit):
    listed = json.loads((kit / device_bench.NETS_FILE).read_text())
    assert {net["file"] for net in listed["nets"]} == {p.name for p in kit.glob("net*.onnx")}
    assert tuple(listed["features"]) == FEATURES
    assert {name for net in listed["nets"] for name in net["features"]} >= set(FEATURES)
    for net in listed["nets"][::10]:
        open_session((kit / net["file"]).read_bytes())


def test_the_program_of_a_kit_runs_without_the_package(kit, tmp_path):
    program = (kit / bench_ops._BENCH).read_text()
    quick = program.replace("ROUNDS, SECONDS = 12, 0.02", "ROUNDS, SECONDS = 2, 0.002")
    assert quick != program
    (kit / bench_ops._BENCH).write_text(quick)
    command = [sys.executable, "-I", str(kit / bench_ops._BENCH), "--out", "table.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "nets on" in done.stdout
    model = read_table(tmp_path / "table.json")
    assert model.basis == "predicted"
    assert model.factor > 1


def test_a_kit_does_not_overwrite_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex"):
        bench_ops.write_kit(tmp_path, ["tiny"])


def test_a_failing_program_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_ops, "_nets", lambda spaces: iter(()))
    with pytest.raises(MachineError, match=r"bench\.py ended with 1"):
        bench_ops.bench_here(tmp_path / "table.json")
    assert not (tmp_path / "table.json").exists()
