"""Which kernels ONNX Runtime runs, and what a profile says of their times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_automl.cost import kernels
from lepton_automl.cost.kernels import _mean_times, kernel_table, random_feeds
from lepton_automl.cost.layer_table import fixed_batch, layer_table
from lepton_automl.errors import MachineError
from lepton_automl.models.graph import Conv, Linear
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch


def table_of(file):
    return kernel_table(file, random_feeds(open_session(file)), 0.01)


@pytest.mark.parametrize("seed", range(3))
def test_every_layer_of_an_int8_file_is_in_one_kernel(seed):
    arch = random_arch(seed)
    file = random_int8_onnx(arch, 64)
    table = table_of(file)
    computed = [layer for kernel in table.kernels for layer in kernel.layers]
    layers = layer_table(fixed_batch(onnx.load_from_string(file)), 1)
    assert sorted(computed) == sorted(layer.name for layer in layers)
    kinds = {layer: kernel.kind for kernel in table.kernels for layer in kernel.layers}
    for op in arch.graph.ops:
        if isinstance(op, Conv | Linear):
            assert kinds[op.name] == ("QLinearConv" if isinstance(op, Conv) else "QGemm")


def test_operators_are_counted_where_they_are_fused():
    """A convolution, its normalisation and its clamp are one kernel; no operator is lost."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.normal(size=(8, 3, 3, 3))} | {n: rng.random(8) + 0.5 for n in "stuv"}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", *"stuv"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", depth, 8, 8])
        for name, depth in (("x", 3), ("y", 8))
    ]
    arrays = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    opset = [helper.make_opsetid("", 17)]
    file = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    found = table_of(file).kernels
    (conv,) = [kernel for kernel in found if "Conv" in kernel.kind]
    assert sorted(conv.replaces) == ["BatchNormalization", "Conv", "Relu"]
    assert conv.layers == ("first", "BatchNormalization", "Relu")
    assert all(kernel.layers == () for kernel in found if kernel is not conv)


def event(name, start, duration=0, kind="Node"):
    return {"name": name, "cat": kind, "ts": start, "dur": duration}


def test_times_of_kernels_are_the_distances_of_their_starts():
    """The true start is cut off to whole microseconds; the mean over many calls is not."""
    rng, events = np.random.default_rng(0), []
    true = {"a": 1.3, "b": 0.4, "c": 2.6}
    for at in np.cumsum(rng.uniform(50, 60, 5000)):
        start = at
        for name, time in true.items():
            events.append(event(f"{name}_kernel_time", int(start)))
            start += time
        run = event("SequentialExecutor::Execute", int(at), int(start) - int(at), "Session")
        events.append(run)
    found = _mean_times(events)
    # Only the fastest fifth is used, whose ends are cut off in favour of it: 1 us in all at most.
    assert sum(found.values()) == pytest.approx(sum(true.values()), abs=1)
    assert found["b"] < found["a"] < found["c"]


def test_inputs_of_a_free_size_have_no_sample():
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, "h", 8]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    file = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    with pytest.raises(ValueError, match="its input x is"):
        random_feeds(open_session(file))


@pytest.mark.parametrize("content", [None, "[{"])
def test_a_profile_that_cannot_be_written_is_not_a_fault_of_the_file(monkeypatch, content):
    real = kernels.open_session

    def full_disk(file, *, profile_to="", **more):
        session = real(file, profile_to=profile_to, **more)
        if profile_to:
            path = Path(session.end_profiling())
            path.unlink() if content is None else path.write_text(content)
            monkeypatch.setattr(session, "end_profiling", lambda: str(path))
        return session

    monkeypatch.setattr(kernels, "open_session", full_disk)
    with pytest.raises(MachineError, match="cannot write its profile"):
        table_of(random_int8_onnx(random_arch(0), 64))
