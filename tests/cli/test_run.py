from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_automl.config import Limits, RunConfig
from lepton_automl.pipeline.outcome import Outcome
from tests.helpers.artifacts import verdict


def test_every_option_reaches_the_run(lepton):
    run = lepton.fake("pipeline.run.run", Outcome(Path("x/artifact"), verdict()))
    lepton(
        *("run", "photos", "--test", "held", "--out", "x", "--space", "mobile"),
        *("--budget", "1h30m", "--trials", "12", "--max-latency-ms", "0.5"),
        *("--max-size-kb", "24", "--max-flash-kb", "128", "--max-macs", "2M"),
        *("--max-ram-kb", "64"),
        *("--min-accuracy", "0.9", "--max-drop", "0", "--objective", "accuracy,macs"),
        *("--prefer", "latency", "--target", "x86-vnni", "--seed", "3"),
        *("--latency-from", "there.json"),
        *(
            "--balance",
            "on",
            "--skip-corrupt",
            "--fresh",
            "--jobs",
            "2",
            "--device",
            "cpu",
            "--quiet",
        ),
    )
    assert run.config == RunConfig(
        data="photos",
        out=Path("x"),
        test=Path("held"),
        space="mobile",
        limits=Limits(
            max_latency_ms=0.5,
            max_size_bytes=24_000,
            max_flash_bytes=128_000,
            max_macs=2_000_000,
            max_peak_ram_bytes=64_000,
            min_accuracy=0.9,
            max_drop=0,
        ),
        objectives=("accuracy", "macs"),
        seed=3,
        target="x86-vnni",
        latency_from=Path("there.json"),
        prefer="latency",
        budget_seconds=5400,
        trials=12,
        jobs=2,
        device="cpu",
        skip_corrupt=True,
        balance="on",
        fresh=True,
    )


def test_without_options_the_defaults_of_the_configuration_hold(lepton):
    run = lepton.fake("pipeline.run.run", Outcome(Path("x"), verdict()))
    lepton("run", "digits")
    assert run.config == RunConfig("digits", Path("runs/digits"))


@pytest.mark.parametrize(("status", "code"), [("holds", 0), ("broken", 6), ("undecided", 6)])
def test_the_verdict_is_shown_and_decides_the_exit_code(lepton, status, code):
    lepton.fake("pipeline.run.run", Outcome(Path("x/artifact"), verdict(status=status)))
    done = lepton("run", "digits")
    assert done.exit_code == code
    assert status in done.out


def test_json_is_one_object_with_the_documented_keys(lepton):
    lepton.fake("pipeline.run.run", Outcome(Path("x/artifact"), verdict()))
    body = json.loads(lepton("run", "digits", "--json").out)
    assert {"artifact", "sha256", "verdict", "limits", "primary"} <= set(body)
    for name in ("int8", "float"):
        assert {
            *("accuracy", "accuracy_interval", "n_samples", "size_bytes", "weight_bytes"),
            *("parameter_bytes", "macs", "peak_ram_bytes", "latency_ms", "float_nodes"),
        } <= set(body[name])
