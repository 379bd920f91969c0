from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.errors import ConfigError, DataError, MachineError
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder, configured, default_out, locate, locate_artifact

MINE = Definition(
    data="digits",
    test="",
    skip_corrupt=False,
    data_fingerprint="abc",
    space="tiny",
    space_digest="def",
    objectives=("accuracy", "size_bytes"),
    seed=3,
    target="x86-any",
    prefer="size",
    limits=Limits(max_size_bytes=24_000, min_accuracy=0.9),
)


def test_a_definition_is_toml_that_reads_back_as_itself():
    text = dataclasses.replace(MINE, data='odd "name"\\x').to_toml()
    assert tomllib.loads(text)["limits"] == {"max_size_bytes": 24_000, "min_accuracy": 0.9}
    assert Definition.from_toml(text) == dataclasses.replace(MINE, data='odd "name"\\x')


def test_the_same_definition_goes_on_and_moved_data_are_the_same_data(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(MINE, fresh=False):
        pass
    moved = dataclasses.replace(MINE, data="/elsewhere/digits")
    with folder.claimed(moved, fresh=False):
        pass
    assert folder.definition() == moved


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "seed: 3 here, 4 asked for"),
        ({"mels": 20}, "mels: not given here, 20 asked for"),
        ({"space_digest": "other"}, "content of the search space: "),
        ({"data_fingerprint": "other"}, "began with other samples, groups or parts of digits:"),
        # Weights of classes follow from the data.
        ({"data_fingerprint": "other", "balanced": True}, "other samples, groups or parts of"),
        (
            {"data_fingerprint": "other", "data": "/b"},
            "data: digits here, /b asked for, with other samples, groups or parts",
        ),
        ({"data_fingerprint": "other", "seed": 4}, "run: seed: 3 here, 4 asked for"),
        ({"data_fingerprint": "other", "group": "a+"}, "run: group: not given here, a+ asked for"),
        ({"data_fingerprint": "other", "group": "none"}, "group: not given here, none asked for"),
        ({"limits": Limits(max_size_bytes=1)}, "--max-size-kb: 24 here, 0.001 asked for"),
        ({"limits": Limits(max_size_bytes=24_001)}, "--max-size-kb: 24 here, 24.001 asked for"),
        ({"limits": Limits()}, "--max-size-kb: 24 here, none asked for"),
        ({"objectives": ("accuracy",)}, "objectives"),
        ({"balanced": True}, "balanced: False here, True asked for"),
        ({"warm_digest": "ab"}, "warm start: none here, ab asked for"),
    ],
)
def test_another_definition_is_refused_with_the_difference_and_both_ways_out(
    tmp_path, change, said
):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(MINE, fresh=False):
        pass
    with (
        pytest.raises(ConfigError) as caught,
        folder.claimed(dataclasses.replace(MINE, **change), fresh=False),
    ):
        pass
    assert said in caught.value.what
    assert "--out" in caught.value.fix
    assert "--fresh" in caught.value.fix


def test_fresh_moves_the_old_run_aside_and_loses_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(MINE, fresh=False):
        pass
    (folder.path / "kept").write_text("precious")
    with folder.claimed(dataclasses.replace(MINE, seed=9), fresh=True):
        pass
    assert folder.definition().seed == 9
    (old,) = [p for p in tmp_path.iterdir() if p != folder.path]
    assert (old / "kept").read_text() == "precious"


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with (
        pytest.raises(ConfigError, match="not a run"),
        RunFolder(tmp_path).claimed(MINE, fresh=False),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_a_matter_of_the_machine(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MachineError, match="cannot be written"),
        RunFolder(tmp_path / "file" / "run").claimed(MINE, fresh=False),
    ):
        pass


def test_a_run_is_found_by_its_folder_its_artifact_or_the_file(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.claimed(MINE, fresh=False):
        pass
    run.artifact.mkdir()
    file = run.artifact / "model.int8.onnx"
    file.write_bytes(b"")
    (run.artifact / "manifest.json").write_text("{}")
    for path in (run.path, run.artifact, file):
        assert locate(path) == run
        assert locate_artifact(path) == run.artifact


def test_nothing_there_is_said_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match="no such path") as caught:
        locate(tmp_path / "nowhere")
    assert "lepton run" in caught.value.fix
    with pytest.raises(DataError, match=r"manifest\.json"):
        locate_artifact(tmp_path)


def test_a_run_that_goes_on_keeps_its_definition_and_its_copy_of_the_space(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(MINE, fresh=False):
        pass
    config = configured(folder, jobs=2)
    assert config.limits == MINE.limits
    assert (config.seed, config.objectives, config.jobs) == (3, MINE.objectives, 2)
    assert config.space == str(folder.space_file)


def test_the_default_folder_is_named_after_the_data():
    assert default_out("digits") == Path("runs/digits")
    assert default_out("/data/flowers/") == Path("runs/flowers")
    assert default_out("x/fashion.npz") == Path("runs/fashion")
    assert default_out("/data/flowers/train") == Path("runs/flowers")


def test_another_latency_table_is_another_run_and_a_run_keeps_its_copy(tmp_path):
    folder = RunFolder(tmp_path / "run")
    told = dataclasses.replace(MINE, latency_from="0123", objectives=("accuracy", "latency_ms"))
    with folder.claimed(told, fresh=False):
        pass
    assert folder.definition() == told
    assert configured(folder).latency_from == folder.latency_file
    with (
        pytest.raises(ConfigError, match="latency_from: 0123 here, 4567 asked for"),
        folder.claimed(dataclasses.replace(told, latency_from="4567"), fresh=False),
    ):
        pass


def test_a_definition_from_before_there_were_tables_has_none():
    text = "".join(x for x in MINE.to_toml().splitlines(True) if not x.startswith("latency_from"))
    assert Definition.from_toml(text) == MINE


@pytest.mark.parametrize("balanced", [False, True])
def test_a_run_that_goes_on_counts_as_it_did(tmp_path, balanced):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(dataclasses.replace(MINE, balanced=balanced), fresh=False):
        pass
    assert f"balanced = {str(balanced).lower()}\n" in folder.definition_file.read_text()
    assert configured(folder).balance == ("on" if balanced else "off")
    text = folder.definition_file.read_text()
    folder.definition_file.write_text(re.sub("balanced = .*\n", "", text))
    assert not folder.definition().balanced, "as in runs that are older than the question"


def test_fresh_does_not_move_the_working_directory_away(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(MINE, fresh=False):
        pass
    before = folder.definition_file.read_text()
    (folder.path / "inner").mkdir()
    for place, out in (("run", "."), ("run/inner", "..")):
        monkeypatch.chdir(tmp_path / place)
        with (
            pytest.raises(ConfigError, match="it is or holds the working directory") as caught,
            RunFolder(Path(out)).claimed(MINE, fresh=True),
        ):
            pass
        assert "another directory" in caught.value.fix
    assert folder.definition_file.read_text() == before


def test_fresh_again_within_a_second_keeps_every_old_run(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda text: "now")
    folder = RunFolder(tmp_path / "run")
    for seed in range(3):
        with folder.claimed(dataclasses.replace(MINE, seed=seed), fresh=True):
            pass
    found = {path.name: RunFolder(path).definition().seed for path in tmp_path.iterdir()}
    assert found == {"run.now": 0, "run.now-2": 1, "run": 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [("columns", 'columns = { a = "b" }'), ("seed", 'seed = "0"'), ("window", "window = 1.5")],
)
def test_a_field_of_another_type_is_named(tmp_path, field, value):
    lines = [line for line in MINE.to_toml().splitlines() if not line.startswith(field)]
    tables = next(n for n, line in enumerate(lines) if line.startswith("["))
    (tmp_path / "run.toml").write_text("\n".join([*lines[:tables], value, *lines[tables:]]))
    with pytest.raises(ConfigError, match=f"does not define a run: {field}"):
        RunFolder(tmp_path).definition()
