from __future__ import annotations

import json
from pathlib import Path

from lepton_automl.config import Limits, RunConfig
from tests.helpers import rows


def test_every_option_reaches_the_search(lepton):
    search = lepton.fake("pipeline.run.search", rows.found())
    lepton(
        *("search", "photos", "--out", "x", "--space", "mobile", "--budget", "10m"),
        *("--trials", "12", "--max-size-kb", "24", "--min-accuracy", "90"),
        *("--objective", "accuracy,macs", "--seed", "3", "--jobs", "2", "--quiet"),
        *("--optuna-storage", "x.db", "--callback", "tensorboard,wandb", "--callback", "wandb"),
        *("--warm-start", "runs/old", "--balance", "off"),
        *("--max-latency-ms", "2", "--latency-from", "there.json"),
    )
    assert search.config == RunConfig(
        data="photos",
        out=Path("x"),
        space="mobile",
        limits=Limits(max_latency_ms=2, max_size_bytes=24_000, min_accuracy=0.9),
        objectives=("accuracy", "macs"),
        seed=3,
        budget_seconds=600,
        trials=12,
        jobs=2,
        latency_from=Path("there.json"),
        warm_start=Path("runs/old"),
        balance="off",
        optuna_storage="x.db",
        callbacks=("tensorboard", "wandb"),
    )


def test_a_finished_search_exits_with_0_and_prints_its_winner_and_the_reason(lepton):
    lepton.fake("pipeline.run.search", rows.found())
    done = lepton("search", "digits")
    assert done.exit_code == 0
    assert "the cheapest [of all]" in done.out


def test_json_names_the_winner_and_the_front(lepton):
    lepton.fake("pipeline.run.search", rows.found())
    body = json.loads(lepton("search", "digits", "--json").out)
    assert (body["winner"], body["front"]) == (1, [0, 1])
