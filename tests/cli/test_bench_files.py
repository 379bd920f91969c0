"""`lepton bench` on files: what is measured, of whom, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_automl.artifact import timing
from lepton_automl.artifact.timing import FileTiming, TimedFile, time_files
from lepton_automl.artifact.timing_server import _times
from tests.helpers import hostile_graphs as graphs
from tests.helpers.artifacts import make_bundle, seal_bundle


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), formats=("c",))
    seal_bundle(made)
    return made.folder


def product(side, batch="n"):
    """A file whose time grows with the square of `side`."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, side]) for n in "xy"]
    weight = numpy_helper.from_array(np.ones((side, side), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def test_every_format_of_an_artifact_is_beside_a_file_made_elsewhere(lepton, artifact):
    Path("other.onnx").write_bytes(product(64))
    words = ("--seconds", "0.02", "--threads", "1", "--batch", "1,4", "--json")
    done = lepton("bench", str(artifact), "other.onnx", *words)
    body = json.loads(done.out)
    rows = [FileTiming(**row) for row in body["files"]]
    names = ["model.int8.onnx", "net.c", "other.onnx"]
    assert [Path(row.path).name for row in rows] == 2 * names
    assert [row.batch for row in rows] == 3 * [1] + 3 * [4]
    assert rows[0].ratio == 1
    c = rows[1]
    if shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        assert not c.not_run
    for row in rows:
        assert row.not_run or 0 < row.p50_us <= row.p95_us <= row.p99_us
    assert rows[4].not_run == "one thread and one sample only"
    assert not rows[5].not_run
    assert "unsealed" in body["notes"][0]


def test_a_larger_product_takes_a_larger_multiple():
    files = [TimedFile(Path(f"{side}.onnx"), content=product(side)) for side in (32, 1024)]
    small, large = time_files(files, seconds=0.05)
    assert large.ratio > 1.5
    assert large.ratio_interval[0] <= large.ratio <= large.ratio_interval[1]
    # Its weights are 4 MiB, once in the file and once in the session.
    assert small.memory_bytes is None or large.memory_bytes > small.memory_bytes + (3 << 20)


def test_calls_are_repeated_for_the_time_that_is_asked_for():
    found = _times(lambda: time.sleep(0.002), 0.02)
    assert 1 <= len(found) <= 10
    assert min(found) >= 0.002
    assert len(_times(lambda: time.sleep(0.01), 0.0)) == 1


def test_a_file_of_one_sample_is_said_not_to_run_in_batches(lepton):
    Path("one.onnx").write_bytes(product(8, batch=1))
    done = lepton("bench", "one.onnx", "--batch", "2", "--threads", "1", "--seconds", "0.02")
    assert done.exit_code == 0
    assert "not run here" in done.out


def test_files_of_strangers_end_in_a_row_and_not_in_the_command(lepton):
    Path("other.onnx").write_bytes(product(8))
    path = graphs.written(Path(), "constant of terabytes")
    words = ("--threads", "1", "--seconds", "0.02", "--json")
    done = lepton("bench", str(path), "other.onnx", *words)
    first, second = json.loads(done.out)["files"]
    assert first["not_run"]
    assert (second["not_run"], second["ratio"]) == ("", None)


def test_code_of_a_changed_artifact_is_refused_before_it_is_compiled(lepton, artifact, tmp_path):
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    with (copy / "c" / "net.c").open("a") as file:
        file.write("\n#error this must not be compiled\n")
    assert lepton("bench", str(copy), "--seconds", "0.02").exit_code == 3
    from tests.helpers.artifacts import seal_again

    seal_again(copy)
    done = lepton("bench", str(copy), "--seconds", "0.02", "--threads", "1", "--json")
    (row,) = [row for row in json.loads(done.out)["files"] if row["format"] == "c"]
    assert "not what lepton writes" in row["not_run"]


@pytest.mark.parametrize(
    "words",
    [
        ("--threads", "1"),
        ("--ops", "a.onnx"),
        ("a.onnx", "--kit", "k"),
        ("a.onnx", "--threads", "0"),
        ("a.onnx", "--threads", "one"),
        ("a.onnx", "--batch", "5000"),
        ("a.onnx", "--seconds", "0"),
    ],
)
def test_options_without_effect_and_numbers_out_of_range_are_errors(lepton, words):
    Path("a.onnx").write_bytes(product(8))
    assert lepton("bench", *words).exit_code == 4


def test_files_take_turns(monkeypatch):
    order = []

    class Fake:
        not_run, shortest = "", [1.0]

        def __init__(self, file, threads, batch):
            self.name = file.path.name

        def __enter__(self):
            return self

        def __exit__(self, *_):
            order.append("closed")

        def run(self, seconds):
            order.append(self.name)

        def timing(self, first):
            return self.name

    monkeypatch.setattr(timing, "_Opened", Fake)
    assert time_files([TimedFile(Path("a")), TimedFile(Path("b"))]) == ["a", "b"]
    assert order == ["a", "b"] * timing.ROUNDS + ["closed", "closed"]
