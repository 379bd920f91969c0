from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from lepton_automl.config import Limits, RunConfig
from lepton_automl.core.events import silent
from lepton_automl.data.folds import SMALL
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.pipeline import resources
from lepton_automl.pipeline.context import open_run
from lepton_automl.pipeline.resources import choose_space, chosen_device, resolve
from lepton_automl.runs.folder import RunFolder, configured
from lepton_automl.runs.ledger import record_decision, recorded_decisions
from lepton_automl.search.space.loader import load


def config(tmp_path, **more):
    return RunConfig(data="digits", out=tmp_path / "run", **more)


def test_an_open_run_claims_the_folder_and_keeps_a_copy_of_the_space(tmp_path):
    with open_run(config(tmp_path), silent) as run:
        assert run.space.name == "general"
        assert run.folder.definition().data_fingerprint == run.dataset.fingerprint
        assert load(str(run.folder.space_file)).digest == run.space.digest


@pytest.mark.parametrize(
    ("flip", "values"), [("auto", {False, True}), ("on", {True}), ("off", {False})]
)
def test_flips_of_the_space_are_as_the_option_says(tmp_path, flip, values):
    with open_run(config(tmp_path, flip=flip), silent) as run:
        assert {v for p in run.space.train_parameters("flip") for v in p.values} == values
        assert run.folder.definition().flip == flip


def test_stated_channels_define_the_run_and_are_no_decision(tmp_path):
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (40, 4, 4), np.uint8)
    np.savez(tmp_path / "grey.npz", x=x, y=np.arange(40) % 2)

    def config(**more):
        return RunConfig(data=str(tmp_path / "grey.npz"), out=tmp_path / "run", **more)

    with open_run(config(channels="3"), silent) as run:
        assert run.dataset.channels == 3
        assert "channels" not in {each.name for each in recorded_decisions(run.ledger)}
    assert configured(RunFolder(tmp_path / "run")).channels == "3"
    with (
        pytest.raises(ConfigError, match="channels: 3 here, auto asked for"),
        open_run(config(), silent),
    ):
        pass
    with open_run(config(fresh=True), silent) as run:
        (made,) = [each for each in recorded_decisions(run.ledger) if each.name == "channels"]
        assert (made.choice, made.option) == ("grey, 1 channel", "--channels 3")
    path = run.folder.definition_file
    path.write_text(path.read_text().replace('channels = "auto"\n', ""))  # As it was before.
    with open_run(config(), silent) as run:
        assert run.dataset.channels == 1


@pytest.mark.parametrize(("flip", "never"), [("on", "always"), ("off", "never")])
def test_flips_that_the_space_has_fixed_already_are_refused(tmp_path, flip, never):
    path, value = tmp_path / "own.toml", {"on": "true", "off": "false"}[flip]
    text = load("tiny").text.replace("flip = [false, true]", f"flip = {value}")
    path.write_text(text)
    with (
        pytest.raises(ConfigError, match=f"--flip {flip} has no effect: .* {never} mirrors"),
        open_run(config(tmp_path, flip=flip, space=str(path)), silent),
    ):
        pass


def test_a_run_folder_with_the_earlier_option_is_refused_with_the_reason(tmp_path):
    with open_run(config(tmp_path), silent) as run:
        path = run.folder.definition_file
    path.write_text(path.read_text().replace('flip = "auto"', "no_flip = false"))
    with (
        pytest.raises(ConfigError, match="--no-flip instead of --flip"),
        open_run(config(tmp_path), silent),
    ):
        pass


def test_a_second_command_on_the_same_run_is_refused(tmp_path):
    with (
        open_run(config(tmp_path), silent),
        pytest.raises(ConfigError, match="another command"),
        open_run(config(tmp_path), silent),
    ):
        pass
    with open_run(config(tmp_path), silent):
        pass


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        ({"objectives": ("accuracy", "latency")}, "'latency' is not a", "latency_ms"),
        ({"objectives": ("size_bytes",)}, "accuracy and others", "--objective"),
        ({"objectives": ("accuracy", "macs", "macs")}, "each once", "--objective"),
        ({"space": "tinny"}, "'tinny'", "tiny"),
        ({"target": "x86-vni"}, "'x86-vni'", "x86-vnni"),
        ({"jobs_per_gpu": 2, "device": "cpu"}, "--jobs-per-gpu has no effect", "--jobs"),
        ({"folds": "10"}, "--folds 10: these data can be divided into at most 7", "--folds 7"),
        ({"final_jobs": 3, "jobs": 2}, "--final-jobs 3, the rule is 1 to 2", "smaller"),
        ({"channels": "2"}, "--channels '2' is not known", "1, 3, 4, auto"),
        ({"final_jobs": 0}, "--final-jobs 0, the rule is 1 to", "leave it out"),
        ({"hosts": Path("none.toml")}, "none.toml cannot be read", "[host.NAME]"),
    ],
)
def test_a_wrong_option_is_reported_before_anything_is_written(tmp_path, more, said, hint):
    with pytest.raises(ConfigError) as caught, open_run(config(tmp_path, **more), silent):
        pass
    assert said in caught.value.what
    assert hint in caught.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"formats": ("c",)}, "files of further formats (c) are measured on this machine only"),
        ({"ship": "litert"}, "files of further formats (litert) are measured on this machine"),
        ({"latency_from": Path("table.json")}, "table.json has the latencies of a device"),
    ],
)
def test_latencies_of_two_machines_are_never_compared(tmp_path, more, said, monkeypatch):
    monkeypatch.setattr(resources, "read_table", lambda _: None)
    (tmp_path / "table.json").touch()
    if "latency_from" in more:
        more = {"latency_from": tmp_path / "table.json"}
    hosts = tmp_path / "hosts.toml"
    hosts.write_text('[host.board]\ncommand = ["ssh", "board"]\nmeasures = true\n')
    wanted = config(tmp_path, hosts=hosts, limits=Limits(max_latency_ms=1.0), **more)
    with pytest.raises(ConfigError) as caught, open_run(wanted, silent):
        pass
    assert "host board of" in caught.value.what
    assert said in caught.value.what
    # Without the mark, or a wish for latency, the same options are allowed so far.
    hosts.write_text('[host.board]\ncommand = ["ssh", "board"]\n')
    resolve(wanted)


def test_folds_without_effect_are_refused(tmp_path):
    draws, count = np.random.default_rng(0), SMALL * 2
    x = draws.integers(0, 256, (count, 4, 4), np.uint8)
    np.savez(tmp_path / "many.npz", x=x, y=np.arange(count) % 2)
    many = dataclasses.replace(config(tmp_path, folds="off"), data=str(tmp_path / "many.npz"))
    with pytest.raises(ConfigError, match="--folds off has no effect"), open_run(many, silent):
        pass
    with open_run(dataclasses.replace(many, folds="3"), silent) as run:
        assert run.config.folds == "3"
    # Another value continues the same run.
    with open_run(dataclasses.replace(many, folds="auto"), silent):
        pass


def test_cuda_without_a_cuda_device_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")
    with pytest.raises(MachineError) as caught:
        chosen_device("cuda")
    assert "--device cpu" in caught.value.fix


def test_half_written_files_of_a_killed_command_are_removed(tmp_path):
    left = tmp_path / "run" / "models" / ".weights.safetensors.4711.tmp"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.toml.4711.tmp").touch()
    with open_run(config(tmp_path), silent):
        left.parent.mkdir()
        left.touch()
    with open_run(config(tmp_path), silent):
        assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix == ".tmp"]


TABLE = {
    "lepton_latency_table": 1,
    "machine": {"cpu": "Tiny Core", "system": "Linux arm"},
    "onnxruntime": "1.20.0",
    "error": {"most": 0.25},
    "nanoseconds": {"call": 1000.0},
}


def test_a_latency_table_is_copied_into_the_run_and_defines_it(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    with open_run(config(tmp_path, latency_from=path), silent) as run:
        assert run.latency_model.basis == "predicted"
        assert not run.is_timed
        copy = run.folder.latency_file
        assert copy.read_bytes() == path.read_bytes()
        assert run.folder.definition().latency_from == run.latency_model.digest
    with open_run(config(tmp_path, latency_from=copy), silent) as run:
        assert run.latency_model.basis == "predicted"
    with open_run(config(tmp_path, latency_from=copy, fresh=True), silent) as run:
        assert run.folder.latency_file.read_bytes() == path.read_bytes()
    with (
        pytest.raises(ConfigError, match="another run: latency_from"),
        open_run(config(tmp_path), silent),
    ):
        pass


@pytest.mark.parametrize(("target", "basis"), [("x86-any", None), ("cortex-m", "estimated")])
def test_latency_is_estimated_for_a_target_that_is_not_this_machine(tmp_path, target, basis):
    with open_run(config(tmp_path, target=target), silent) as run:
        assert (run.latency_model and run.latency_model.basis) == basis
        assert run.is_timed == (basis is None)


def test_a_malformed_table_is_reported_before_anything_is_written(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("{}")
    with (
        pytest.raises(ConfigError, match="is not a latency table"),
        open_run(config(tmp_path, latency_from=path), silent),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_numpy_computes_on_one_thread_beside_the_workers(tmp_path):
    with threadpool_limits(2), open_run(config(tmp_path), silent):
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


def test_without_space_the_search_tries_known_good_nets_of_all_sizes(tmp_path):
    pictures = SimpleNamespace(kind="pictures", front_end=None)
    chosen = choose_space(config(tmp_path), resolve(config(tmp_path)), pictures)
    assert chosen.digest == load("general").digest
    named = config(tmp_path, space="tiny")
    assert choose_space(named, resolve(named), pictures).name == "tiny"


def test_known_good_nets_have_the_settings_of_few_samples(tmp_path):
    with open_run(config(tmp_path), silent) as run:
        few = load("general").few
        assert len(run.dataset.train) < few.samples
        for candidate in run.space.candidates:
            assert few.values.items() <= candidate.items()


def test_a_reopened_run_keeps_what_its_search_has_decided_about_the_space(tmp_path):
    with open_run(config(tmp_path), silent) as run:
        (first,) = (d for d in recorded_decisions(run.ledger) if d.name == "search space")
        later = dataclasses.replace(first, choice="general, begun with 3 nets")
        record_decision(run.ledger, later)
    with open_run(config(tmp_path), silent) as run:
        assert later in recorded_decisions(run.ledger)
