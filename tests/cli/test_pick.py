from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.pipeline.front import Front
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.pipeline.pick import PickResult
from tests.helpers.artifacts import verdict
from tests.helpers.rows import row


def picked(status="holds"):
    return PickResult("trial 3", "the cheapest", Outcome(Path("x"), verdict(status=status)))


def test_limits_and_out_reach_the_pick(lepton, run_folder):
    pick = lepton.fake("pipeline.pick.pick", picked())
    lepton("pick", str(run_folder), "--max-latency-ms", "0.1", "--out", "small", "--budget", "2m")
    (((config, wanted), _),) = pick.asked
    assert (config.out, config.budget_seconds) == (run_folder, 120)
    assert config.limits == Limits(max_size_bytes=9000)
    assert (wanted.limits, wanted.prefer) == (Limits(max_latency_ms=0.1), None)
    assert wanted.out == Path("small")


@pytest.mark.parametrize(("status", "code"), [("holds", 0), ("broken", 6), ("undecided", 6)])
def test_the_verdict_decides_the_exit_code_and_json_names_the_choice(
    lepton, run_folder, status, code
):
    lepton.fake("pipeline.pick.pick", picked(status))
    done = lepton("pick", str(run_folder), "--max-size-kb", "4", "--json")
    assert done.exit_code == code
    body = json.loads(done.out)
    assert (body["picked"], body["selection_reason"], body["verdict"]) == (
        "trial 3",
        "the cheapest",
        status,
    )


def test_without_limits_the_front_is_listed_only(lepton, run_folder):
    rows = (row(0, 0.9, 9_000, 0.01), row(1, 0.98, 12_000, 0.02))
    lepton.fake("pipeline.front.read_front", Front(rows, rows, 1, "the cheapest"))
    pick = lepton.fake("pipeline.pick.pick", picked())
    done = lepton("pick", str(run_folder), "--json")
    assert done.exit_code == 0
    assert json.loads(done.out)["front"] == [0, 1]
    assert "winner: trial 1, the cheapest" in lepton("pick", str(run_folder)).out
    assert pick.asked == []


@pytest.mark.parametrize(
    ("options", "word"), [(["--out", "x"], "--out"), (["--prefer", "speed"], "'speed'")]
)
def test_an_option_without_effect_is_rejected(lepton, run_folder, options, word):
    done = lepton("pick", str(run_folder), *options)
    assert done.exit_code == 4
    assert word in done.err
