from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_automl.pipeline.outcome import Outcome
from tests.helpers import rows
from tests.helpers.artifacts import verdict


def test_a_run_keeps_its_definition_and_takes_a_new_budget_and_device(lepton, run_folder):
    compress = lepton.fake("pipeline.run.compress", rows.compressed())
    lepton("compress", str(run_folder / "artifact"), "--budget", "5m")
    config = compress.config
    assert (config.out, config.data, config.seed) == (run_folder, "digits", 7)
    assert config.space == str(run_folder / "space.toml")
    assert (config.budget_seconds, config.device) == (300, "auto")


def test_json_names_the_models_and_every_step(lepton, run_folder):
    made = rows.compressed()
    lepton.fake("pipeline.run.compress", made)
    done = lepton("compress", str(run_folder), "--json")
    assert done.exit_code == 0
    body = json.loads(done.out)
    assert (body["reference"], body["int8"]) == (made.reference.digest, made.int8.digest)
    assert [step["name"] for step in body["steps"]] == [step.name for step in made.steps]


def test_a_given_model_is_compressed_on_its_data(lepton, tmp_path):
    compress = lepton.fake("pipeline.compress_onnx.compress_model", Outcome(tmp_path, verdict()))
    model = tmp_path / "net.onnx"
    model.write_bytes(b"\x3a\x00")  # An empty graph.
    lepton(
        *("compress", str(model), "--data", "pictures", "--max-drop", "0.5", "--seed", "3"),
        *("--preprocessing", "a.toml", "--prefer", "latency", "--target", "x86-vnni"),
    )
    (((config, source, preprocessing), _),) = compress.asked
    assert (source, preprocessing) == (model, Path("a.toml"))
    assert (config.data, config.seed) == ("pictures", 3)
    assert (config.limits.max_drop, config.prefer, config.target) == (0.5, "latency", "x86-vnni")
    assert str(config.out) == "runs/net-int8"


@pytest.mark.parametrize("option", [("--seed", "1"), ("--out", "x"), ("--test", "x")])
def test_an_option_that_the_run_defines_is_rejected(lepton, run_folder, option):
    done = lepton("compress", str(run_folder), *option)
    assert done.exit_code == 4
    assert "has no effect" in done.err


@pytest.mark.parametrize("limit", [(), ("--max-drop", "1")])
def test_a_run_takes_no_data(lepton, run_folder, limit):
    done = lepton("compress", str(run_folder), "--data", "digits", *limit)
    assert done.exit_code == 4
    assert "reads its own, digits" in done.err


def test_the_best_net_of_a_run_is_compressed_to_other_limits(lepton, run_folder, tmp_path):
    compress = lepton.fake("pipeline.compress_net.compress_net", Outcome(tmp_path, verdict()))
    lepton("compress", str(run_folder), "--max-size-kb", "20", "--prefer", "latency")
    (((config, net), _),) = compress.asked
    assert net == run_folder / "models" / "best"
    assert config.out == run_folder.with_name(f"{run_folder.name}-int8")
    assert (config.data, config.seed, config.prefer) == ("digits", 7, "latency")
    assert config.limits.stated == {"max_size_bytes": 20_000}
    lepton("compress", str(run_folder), "--max-drop", "1", "--out", str(tmp_path / "there"))
    assert compress.asked[1][0][0].out == tmp_path / "there"


def test_a_drop_of_zero_reaches_the_compression(lepton, run_folder, tmp_path):
    compress = lepton.fake("pipeline.compress_net.compress_net", Outcome(tmp_path, verdict()))
    lepton("compress", str(run_folder), "--max-drop", "0", "--fresh")
    (((config, _), _),) = compress.asked
    assert config.limits.stated == {"max_drop": 0.0}
    assert config.fresh


def test_with_limits_a_run_still_rejects_other_data(lepton, run_folder):
    done = lepton("compress", str(run_folder), "--max-drop", "1", "--seed", "3")
    assert done.exit_code == 4
    assert "--seed has no effect" in done.err


@pytest.mark.parametrize("option", [("--budget", "5m"), ("--channels", "3")])
def test_training_options_are_rejected_for_an_onnx_model(lepton, option):
    done = lepton("compress", "net.onnx", "--data", "pictures", *option)
    assert done.exit_code == 4
    assert f"{option[0]} has no effect" in done.err


def test_a_model_without_data_is_an_error_that_names_data(lepton, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"net")
    done = lepton("compress", "net.onnx")
    assert done.exit_code == 3
    assert "lepton compress net.onnx --data PICTURES" in done.err


def test_jobs_is_not_an_option(lepton, run_folder):
    done = lepton("compress", str(run_folder), "--jobs", "2")
    assert done.exit_code in (2, 4)
    assert "--jobs" in done.err
