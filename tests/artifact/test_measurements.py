from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lepton_automl.artifact import measurements
from lepton_automl.artifact.manifest import MODELS
from lepton_automl.artifact.measurements import figures, file_problems, float_nodes
from lepton_automl.core.machine import Machine
from lepton_automl.cost.latency import Latency, Stopwatch
from lepton_automl.metrics.paired import Evidence
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.onnx_file import open_optimized
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.artifacts import make_bundle
from tests.helpers.nets import random_model

ARCH = chain((16, 16, 3), [Stem(16), Residual(16), Conv(32, activation="relu6"), Head()], 3)


def test_every_product_sum_and_mean_becomes_its_integer_kernel():
    _, optimized = open_optimized(random_int8_onnx(ARCH, 64))
    kinds = Counter(node.op_type for node in optimized.graph.node)
    assert kinds == {
        "Transpose": 1,
        "QLinearConv": 4,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "Flatten": 1,
        "QGemm": 1,
        "Softmax": 1,
    }
    assert float_nodes(random_int8_onnx(ARCH, 64)) == []


def test_a_bias_scale_that_is_off_is_seen_as_float_nodes():
    model = onnx.ModelProto.FromString(random_int8_onnx(ARCH, 64))
    constants = {t.name: t for t in model.graph.initializer}
    makers = {n.output[0]: n for n in model.graph.node}
    conv = next(n for n in model.graph.node if n.name == "2/conv")
    scale = constants[makers[conv.input[2]].input[1]]
    scale.raw_data = (numpy_helper.to_array(scale) * np.float32(1.05)).tobytes()
    assert any("2/conv" in name for name in float_nodes(model.SerializeToString()))


def test_a_float_file_is_float_and_its_activations_are_fused():
    file = float_onnx(random_model(ARCH), ["a", "b", "c"], {})
    left = float_nodes(file)
    assert len([name for name in left if "Conv" in name]) == 4
    assert not [name for name in left if "Relu" in name or "Clip" in name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def file(made):
    return (made.folder / "model.int8.onnx").read_bytes()


@pytest.fixture(scope="module")
def measured(made):
    files = {name: (made.folder / name).read_bytes() for name in MODELS}
    evidence = dict.fromkeys(MODELS, Evidence(np.arange(100) < 75))
    return files, figures(made.folder, files, made.digests, evidence, 0.04)[0]


def changed(file: bytes, change) -> bytes:
    model = onnx.ModelProto.FromString(file)
    change(model)
    return model.SerializeToString()


def test_files_as_written_have_no_problems(made):
    for name in MODELS:
        assert file_problems(name, (made.folder / name).read_bytes()) == []


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08"])
def test_what_is_not_onnx_is_a_problem(content):
    (problem,) = file_problems("model.int8.onnx", content)
    assert problem.startswith("model.int8.onnx: ")
    assert "not an ONNX file" in problem or "no operators" in problem


def test_a_cut_off_file_is_a_problem(file):
    assert file_problems("x", file[: len(file) // 2])


def test_an_unknown_operator_is_a_problem(file):
    def rename(model):
        model.graph.node[-1].op_type = "Softermax"

    assert file_problems("x", changed(file, rename))


def test_an_operator_outside_of_the_standard_is_a_problem(file):
    def foreign(model):
        node = model.graph.node[-1]
        gelu = helper.make_node("Gelu", [node.output[0] + "_"], list(node.output))
        gelu.domain = "com.microsoft"
        node.output[0] += "_"
        model.graph.node.append(gelu)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    (problem,) = file_problems("x", changed(file, foreign))
    assert "com.microsoft.Gelu" in problem


def test_other_inputs_are_a_problem(file):
    def rename(model):
        model.graph.input[0].name = "image"
        for node in model.graph.node:
            node.input[:] = ["image" if name == "pixels" else name for name in node.input]

    (problem,) = file_problems("x", changed(file, rename))
    assert "image" in problem


def test_weights_in_other_files_are_a_problem(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def outside(model):
        tensor = model.graph.initializer[0]
        (tmp_path / "weights").write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, "weights")
        tensor.ClearField("raw_data")

    assert file_problems("x", changed(file, outside))


def test_weight_bytes_are_those_in_the_files(measured):
    files, found = measured
    for name, file in files.items():
        arrays = [
            numpy_helper.to_array(t) for t in onnx.ModelProto.FromString(file).graph.initializer
        ]
        assert found[name].weight_bytes == sum(a.nbytes for a in arrays if a.ndim > 1)
        assert found[name].size_bytes == len(file)


def test_macs_are_counted_as_in_the_file(measured):
    files, found = measured
    for name, file in files.items():
        model = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(file), data_prop=True)
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in [*model.graph.value_info, *model.graph.output]
        }
        macs = 0
        for node in model.graph.node:
            if node.op_type in {"Conv", "Gemm"}:
                weight, out = shapes_of(model, node.input[1]), shapes[node.output[0]]
                macs += int(np.prod(weight)) * int(np.prod(out[2:]))
        assert found[name].macs == macs


def shapes_of(model, name):
    stored = {t.name: list(t.dims) for t in model.graph.initializer}
    makers = {o: n for n in model.graph.node for o in n.output}
    return stored[name] if name in stored else stored[makers[name].input[0]]


def test_accuracy_and_digest_are_those_of_the_evidence(made, measured):
    for name, item in measured[1].items():
        assert item.accuracy == 0.75
        assert item.n_samples == 100
        assert item.sha256 == made.digests[name]


def test_a_latency_lies_in_its_interval(measured):
    for found in measured[1].values():
        low, high = found.latency_interval
        assert 0 < low <= found.latency_ms <= high


@pytest.mark.parametrize(("recorded", "used"), [(0.08, 0.08), (None, 0.05)])
def test_latency_is_a_ratio_times_the_quiet_time(made, measured, recorded, used, monkeypatch):
    class Fixed:
        def quiet_reference_ms(self):
            return 0.05

        def measure(self, files, **_):
            return {name: Latency(2.0, 1.5, 3.0, 0.1, 0.2) for name in files}

    monkeypatch.setattr(measurements, "Stopwatch", Fixed)
    evidence = dict.fromkeys(MODELS, Evidence(np.ones(4, bool)))
    found, _ = figures(made.folder, measured[0], made.digests, evidence, recorded)
    for name in MODELS:
        assert found[name].latency_ms == pytest.approx(2.0 * used)
        assert found[name].latency_interval == pytest.approx((1.5 * used, 3.0 * used))


def test_an_int8_net_of_convolutions_has_no_float_operators_and_a_float_net_has(measured):
    _, found = measured
    assert found["model.int8.onnx"].float_nodes == ()
    assert len(found["model.fp32.onnx"].float_nodes) >= 3


def test_latencies_of_a_host_are_those_of_the_verdict(made, measured, monkeypatch):
    """Of the same bytes; nothing is measured here."""

    class Elsewhere(Stopwatch):
        host, machine = "board", Machine("Board", (), 4, "1.0", "Linux aarch64")

        def __init__(self):
            pass

        def measure(self, files, **_):
            sizes = {name: float(len(file)) for name, file in files.items()}
            return {
                name: Latency(size, size - 1, size + 1, 0.1, 0.2) for name, size in sizes.items()
            }

    found = measurements.measure_elsewhere(made.folder, Elsewhere())
    about = json.loads(json.dumps(dataclasses.asdict(found)))
    again = measurements.MeasuredElsewhere.from_document(about)
    assert again == found
    monkeypatch.setattr(measurements, "Stopwatch", None)
    evidence = dict.fromkeys(MODELS, Evidence(np.ones(4, bool)))
    timed, _ = figures(made.folder, measured[0], made.digests, evidence, 0.01, elsewhere=again)
    for name, file in measured[0].items():
        assert timed[name].latency_ms == pytest.approx(0.01 * len(file))
    other = measured[0] | {"model.int8.onnx": random_int8_onnx(ARCH, 64)}
    with pytest.raises(KeyError):
        figures(made.folder, other, made.digests, evidence, 0.01, elsewhere=again)
