from __future__ import annotations

import dataclasses
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import lepton_automl as lp
from lepton_automl import api
from lepton_automl.cli.app import app
from lepton_automl.cli.options import OUTPUT_PARAMETERS
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.config import Limits, RunConfig
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.pipeline.outcome import Outcome
from tests.helpers import external_models as models
from tests.helpers import runs


def test_the_public_names_are_functions_and_a_version(finished_run):
    import lepton_automl.artifact.verify  # noqa: F401 - that importing changes nothing is the point

    assert {"run", "pick", "predict", "verify", "status", "__version__"} == set(lp.__all__)
    for name in set(lp.__all__) - {"__version__"}:
        assert getattr(lp, name) is getattr(api, name)


def test_the_functions_do_what_the_commands_do(finished_run, tmp_path):
    config, outcome = finished_run
    options = {"space": config.space, "objectives": ["accuracy", "size_bytes"], "jobs": 1}
    again = lp.run(config.data, out=config.out, trials=2, **options)
    assert again.verdict == outcome.verdict
    assert lp.status(config.out).verdict == outcome.verdict
    assert api.front(config.out).number == outcome.search_result.number
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(path)
    (row,) = lp.predict(config.out, [path])
    assert row.label.startswith("digit ")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="fly"):
        lp.fly  # noqa: B018


def test_a_budget_is_seconds_or_a_duration():
    with pytest.raises(ConfigError, match="soon"):
        lp.run("digits", budget="soon")


def test_run_takes_every_setting_of_a_configuration():
    fields = {field.name for field in dataclasses.fields(RunConfig)} - {
        "data",
        "data_object",
        "budget_seconds",
    }
    assert set(api.Options.__annotations__) == fields | {"budget"}


RENAMED = {"format": "formats", "objective": "objectives", "callback": "callbacks"}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", api.Options.__annotations__),
        ("search", api.SearchOptions.__annotations__),
        ("compress", api.CompressOptions.__annotations__),
        ("pick", inspect.signature(api.pick).parameters),
    ],
)
def test_every_option_of_a_command_is_one_of_its_function(command, options):
    named = {option.name for option in typer.main.get_command(app).commands[command].params}
    limits = {name for name in named if name.startswith(("max_", "min_", "per_class"))}
    limits.discard("max_memory")
    here = named - limits - {"data", "source", "run", *OUTPUT_PARAMETERS}
    there = set(options) - {"limits", "started", "run", "data", "emit"}
    assert {RENAMED.get(name, name) for name in here} == there


def test_a_run_is_compressed_in_its_own_folder(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    made = api.compress(config.out)
    assert isinstance(made, CompressionResult)
    assert (
        made.int8.digest
        == CompressionResult.load(next(config.out.glob("models/compressed-*"))).int8.digest
    )


def test_a_run_is_compressed_to_limits_in_another_folder(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    outcome = api.compress(config.out, limits=Limits(max_size_bytes=50_000))
    assert isinstance(outcome, Outcome)
    assert outcome.artifact == config.out.with_name("run-int8") / "artifact"
    assert [limit.name for limit in outcome.verdict.limits] == ["max_size_bytes"]


def test_limits_for_a_run_without_a_winner_name_the_search(finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    shutil.rmtree(config.out / "models" / "best")
    with pytest.raises(DataError, match="no winner yet") as caught:
        api.compress(config.out, limits=Limits(max_size_bytes=20_000))
    assert "lepton search" in caught.value.fix
    assert not config.out.with_name(f"{config.out.name}-int8").exists()


def test_a_net_in_leptons_format_is_compressed_on_given_data(finished_run, tmp_path):
    config = finished_run[0]
    best = config.out / "models" / "best"
    outcome = api.compress(best, config.data, out=tmp_path / "out", budget=20)
    assert isinstance(outcome, Outcome)
    assert outcome.artifact == tmp_path / "out" / "artifact"
    assert outcome.verdict.parity is not None


def test_an_onnx_file_is_quantized_on_given_data(tmp_path):
    source = models.written(tmp_path)
    models.data(tmp_path)
    outcome = api.compress(source, tmp_path / "stripes.npz", out=tmp_path / "out")
    assert isinstance(outcome, Outcome)
    assert outcome.artifact == tmp_path / "out" / "artifact"
    assert outcome.verdict.parity is None  # No architecture in the own format describes it.


@pytest.mark.parametrize(
    ("source", "data", "options", "named"),
    [
        ("run", None, {"seed": 0}, "--seed"),
        ("run", None, {"preprocessing": "a.toml"}, "--preprocessing"),
        ("run", None, {"out": "x"}, "--out"),
        ("run", None, {"limits": Limits(max_drop=1.0), "target": "x86-any"}, "--target"),
        ("net", "digits", {"preprocessing": "a.toml"}, "--preprocessing"),
        ("net.onnx", "digits", {"budget": "5m"}, "--budget"),
        ("net.onnx", "digits", {"device": "cpu"}, "--device"),
    ],
)
def test_an_option_without_effect_on_what_is_compressed_is_refused(
    tmp_path, monkeypatch, source, data, options, named
):
    monkeypatch.chdir(tmp_path)
    Path("net").mkdir()
    with pytest.raises(ConfigError, match=f"{named} has no effect"):
        api.compress(source, data, **options)


def test_a_pick_needs_limits_or_a_preference():
    with pytest.raises(ConfigError, match="needs limits or a preference"):
        api.pick("anywhere")


def test_a_limit_on_flash_has_no_effect_on_a_model_made_elsewhere(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not read")
    with pytest.raises(ConfigError, match="--max-flash-kb has no effect here"):
        api.compress(path, "digits", limits=Limits(max_flash_bytes=9000))


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        (
            {"limits": {"max_size_bytes": 1000}},
            "limits = {'max_size_bytes': 1000}",
            "limits=Limits(",
        ),
        ({"max_size_kb": 5}, "max_size_kb is a limit", "limits=Limits(max_size_bytes=...)"),
        ({"min_accuracy": 0.9}, "min_accuracy is a limit", "limits=Limits(min_accuracy=...)"),
        ({"seeds": 1}, "'seeds' is not an option", "did you mean 'seed'?"),
        ({"seed": "1"}, "seed = '1', the rule is int", "correct it"),
        ({"trials": 2.5}, "trials = 2.5, the rule is int or None", "correct it"),
        ({"out": 5}, "out = 5, the rule is str, Path or None", "correct it"),
        ({"objectives": ["accuracy", 3]}, "objectives = ['accuracy', 3]", "correct it"),
        ({"rehash": "no"}, "rehash = 'no', the rule is bool", "correct it"),
    ],
)
def test_an_option_of_another_name_or_type_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, options, what, fix
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        lp.run("digits", **options)
    assert caught.value.what.startswith(what)
    assert fix in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_an_option_that_another_function_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'budget' is not an option"):
        api.data("digits", budget="1m")
    with pytest.raises(ConfigError, match="'formats' is not an option"):
        api.search("digits", formats=["c"])


def test_numbers_of_numpy_and_texts_of_several_names_are_options(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lepton_automl.pipeline.run.search", lambda config, emit: seen.append(config)
    )
    api.search("digits", seed=np.int64(3), objectives="accuracy, macs", channels=3, folds=2)
    (config,) = seen
    assert (config.seed, config.objectives) == (3, ("accuracy", "macs"))
    assert (config.channels, config.folds) == ("3", "2")


@pytest.mark.parametrize("value", ["5", True, None.__class__])
def test_a_limit_that_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match=r"limit max_macs = .*, the rule is a number"):
        Limits(max_macs=value)
