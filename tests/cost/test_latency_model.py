from __future__ import annotations

import json

import pytest

from lepton_automl.cost import latency_model, targets
from lepton_automl.cost.latency_model import FEATURES, estimate, features, from_document, read_table
from lepton_automl.errors import ConfigError
from lepton_automl.models.arch import chain
from lepton_automl.models.graph import Conv as ConvOp
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from tests.helpers.nets import random_arch

ARCH = chain((8, 8, 3), [Stem(8), Conv(20, kernel=1), Head()], 5)
TABLE = {
    "lepton_latency_table": 1,
    "machine": {"cpu": "Tiny Core", "flags": [], "cores": 1, "system": "Linux arm"},
    "onnxruntime": "1.20.0",
    "reference_ms": 0.2,
    "error": {"median": 0.05, "most": 0.25, "nets": 10, "folds": 10},
    "nanoseconds": {"call": 1000.0, "conv.macs": 2.0},
    "nets": [],
}


def written(folder, **changes):
    path = folder / "table.json"
    path.write_text(json.dumps(TABLE | changes))
    return path


def test_features_count_what_each_operation_does():
    found = features(ARCH.graph)
    assert found["call"] == 1
    assert found["pixels"] == 8 * 8 * 3
    assert found["conv.op"] == 2
    assert found["conv.macs"] == 64 * (8 * 27 + 20 * 8)
    assert found["conv.lanes"] == 64 * (16 * 28 + 32 * 8)
    assert found["conv.columns"] == 64 * 27
    assert found["linear.macs"] == 100
    assert set(found) <= set(FEATURES)


@pytest.mark.parametrize("seed", range(12))
def test_no_operation_is_forgotten(seed):
    graph = random_arch(seed, activations=("relu", "hswish", "silu")).graph
    found = features(graph)
    assert sum(found.get(n, 0) for n in FEATURES if n.endswith(".op")) == len(graph.ops)
    depthwise = sum(op.macs for op in graph.ops if isinstance(op, ConvOp) and op.depthwise)
    assert found.get("depthwise.macs", 0) == depthwise


def test_a_table_tells_a_latency_with_the_interval_of_its_own_error(tmp_path):
    model = read_table(written(tmp_path))
    told = model.latency(ARCH.graph)
    assert told.milliseconds == pytest.approx((1000 + 2 * 64 * (8 * 27 + 20 * 8)) / 1e6)
    assert told.low == pytest.approx(told.milliseconds / 1.25)
    assert told.high == pytest.approx(told.milliseconds * 1.25)
    assert model.basis == "predicted"
    assert "Tiny Core" in model.device
    assert from_document(model.document()) == model


def test_another_table_has_another_digest(tmp_path):
    one = read_table(written(tmp_path))
    other = read_table(written(tmp_path, nanoseconds={"call": 1001.0}))
    assert one.digest != other.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"lepton_latency_table": 2},
        {"nanoseconds": {"call": -1.0}},
        {"nanoseconds": {"call": float("nan")}},
        {"nanoseconds": {"call": 0.0}},
        {"nanoseconds": {}},
        {"nanoseconds": {"teleport": 1.0}},
        {"nanoseconds": 3},
        {"error": {}},
        {"error": {"most": "much"}},
        {"machine": []},
    ],
)
def test_a_malformed_table_is_refused(tmp_path, changes):
    with pytest.raises(ConfigError, match="is not a latency table"):
        read_table(written(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "\x00\xff"])
def test_what_is_no_table_at_all_is_refused(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_table(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_table(tmp_path / "missing.json")


@pytest.mark.parametrize("name", targets.names())
def test_an_estimate_grows_with_the_net_and_says_what_it_is(name):
    model = estimate(targets.load(name))
    small = chain((8, 8, 3), [Stem(8), Head()], 5)
    assert model.basis == "estimated"
    assert name in model.device
    assert 0 < model.latency(small.graph).milliseconds < model.latency(ARCH.graph).milliseconds
    told = model.latency(ARCH.graph)
    assert told.low < told.milliseconds < told.high


def test_estimates_know_operations_that_tables_do_not():
    assert not set(latency_model.coarse_features(ARCH.graph)) - {"call"} & set(FEATURES)
