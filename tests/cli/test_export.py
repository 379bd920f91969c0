from __future__ import annotations

import json

import pytest

from lepton_automl.pipeline.outcome import Outcome
from tests.helpers.artifacts import verdict


@pytest.mark.parametrize("inner", ["", "artifact", "artifact/manifest.json"])
def test_any_path_of_a_run_names_it_and_its_definition_is_kept(lepton, run_folder, inner):
    export = lepton.fake("pipeline.run.export", Outcome(run_folder / "artifact", verdict()))
    done = lepton("export", str(run_folder / inner), "--json")
    assert json.loads(done.out)["artifact"] == str(run_folder / "artifact")
    config = export.config
    assert (config.out, config.data, config.seed) == (run_folder, "digits", 7)
    assert config.limits.stated == {"max_size_bytes": 9000}
    assert (config.objectives, config.prefer) == (("accuracy", "macs"), "latency")


def test_the_verdict_decides_the_exit_code(lepton, run_folder):
    lepton.fake("pipeline.run.export", Outcome(run_folder / "artifact", verdict(status="broken")))
    assert lepton("export", str(run_folder)).exit_code == 6


def test_a_path_without_a_run_is_rejected(lepton, tmp_path):
    done = lepton("export", str(tmp_path))
    assert done.exit_code == 3
    assert "run.toml" in done.err
