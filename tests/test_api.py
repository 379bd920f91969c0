from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import lepton_automl as lp
from lepton_automl.errors import ConfigError


def test_the_verbs_are_functions_even_after_their_modules_are_imported(finished_run):

    for verb in lp.__all__:
        assert callable(getattr(lp, verb)), verb


def test_the_functions_do_what_the_commands_do(finished_run, tmp_path):
    config, outcome = finished_run
    options = {"space": config.space, "objectives": ["accuracy", "size_bytes"], "jobs": 1}
    again = lp.run(config.data, out=config.out, trials=2, **options)
    assert again.verdict == outcome.verdict
    assert lp.status(config.out).verdict == outcome.verdict
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(path)
    (row,) = lp.predict(config.out, [path])
    assert row.label.startswith("digit ")


def test_an_unknown_verb_is_no_attribute():
    with pytest.raises(AttributeError, match="fly"):
        lp.fly  # noqa: B018


def test_a_budget_may_be_seconds_or_words():
    with pytest.raises(ConfigError, match="soon"):
        lp.run("digits", budget="soon")
