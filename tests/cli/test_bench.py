from __future__ import annotations

import json

from lepton_automl.pipeline import bench_ops


def test_a_kit_is_written_and_its_use_printed(lepton, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_ops, "_DRAWN", 1)
    done = lepton("bench", "--ops", "--kit", str(tmp_path / "kit"), "--space", "tiny")
    assert done.exit_code == 0
    assert "python bench.py" in done.out
    assert (tmp_path / "kit" / "bench.py").is_file()


def test_a_table_is_measured_on_this_machine(lepton, tmp_path, monkeypatch):
    table = {
        "machine": {"cpu": "Tiny Core"},
        "onnxruntime": "1.20.0",
        "reference_ms": 0.2,
        "error": {"median": 0.05, "most": 0.25, "nets": 10},
        "nets": [1, 2],
    }
    asked = []
    monkeypatch.setattr(bench_ops, "bench_here", lambda *given: asked.append(given) or table)
    out = tmp_path / "t.json"
    done = lepton("bench", "--ops", "--out", str(out), "--json")
    assert asked == [(out, ())]
    body = json.loads(done.out)
    assert body["table"] == str(out)
    assert "nets" not in body
    assert "Tiny Core" in lepton("bench", "--ops", "--out", str(out)).out


def test_an_option_without_effect_is_an_error(lepton):
    assert lepton("bench").exit_code == 4
    assert lepton("bench", "--ops", "--kit", "a", "--out", "b").exit_code == 4
    assert lepton("bench", "--ops", "--kit", "a", "--space", "none").exit_code == 4
