from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_automl.pipeline.outcome import Outcome
from tests.helpers.artifacts import verdict


def test_artifact_and_data_reach_verification(lepton):
    prove = lepton.fake("pipeline.verify.verify", Outcome(Path("x"), verdict()))
    lepton("verify", "x", "photos", "--test", "held")
    ((arguments, options),) = prove.asked
    assert arguments == (Path("x"),)
    assert (options["data"], options["test"]) == ("photos", Path("held"))


def test_without_data_those_of_the_run_are_used(lepton):
    prove = lepton.fake("pipeline.verify.verify", Outcome(Path("x"), verdict()))
    lepton("verify", "x")
    ((_, options),) = prove.asked
    assert (options["data"], options["test"]) == (None, None)


@pytest.mark.parametrize(("status", "code"), [("holds", 0), ("broken", 6), ("undecided", 6)])
def test_the_verdict_decides_the_exit_code(lepton, status, code):
    lepton.fake("pipeline.verify.verify", Outcome(Path("x"), verdict(status=status)))
    done = lepton("verify", "x", "--json")
    assert done.exit_code == code
    assert json.loads(done.out)["verdict"] == status
