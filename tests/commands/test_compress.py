from __future__ import annotations

import json

from tests.report import rows


def test_a_run_goes_on_as_it_was_defined_with_what_may_change(lepton, run_folder):
    compress = lepton.fake("pipeline.compress", rows.compressed())
    lepton("compress", str(run_folder / "artifact"), "--budget", "5m", "--jobs", "2")
    config = compress.config
    assert (config.out, config.data, config.seed) == (run_folder, "digits", 7)
    assert config.space == str(run_folder / "space.toml")
    assert (config.budget_seconds, config.jobs, config.device) == (300, 2, "auto")


def test_json_names_the_models_and_every_step(lepton, run_folder):
    made = rows.compressed()
    lepton.fake("pipeline.compress", made)
    done = lepton("compress", str(run_folder), "--json")
    assert done.exit_code == 0
    body = json.loads(done.out)
    assert (body["reference"], body["int8"]) == (made.reference.digest, made.int8.digest)
    assert [step["name"] for step in body["steps"]] == [rung.name for rung in made.rungs]
