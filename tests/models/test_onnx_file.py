from __future__ import annotations

import contextlib
import json

import numpy as np
import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from lepton_automl.artifact.measurements import file_problems
from lepton_automl.compress.external.quantize import Quantizer
from lepton_automl.core.version import __version__
from lepton_automl.errors import MachineError
from lepton_automl.models import onnx_file
from lepton_automl.models.onnx_file import (
    UNLOADABLE,
    OnnxWriter,
    open_optimized,
    open_session,
    predict_probabilities,
    read_metadata,
    slimmed,
)
from tests.compress.test_external_interface import predict_file, wrap
from tests.helpers import external_models as models


@pytest.mark.parametrize("kind", ["plain", "mobile"])
def test_a_slim_file_computes_the_same_in_fewer_bytes(kind: str) -> None:
    pixels, _ = models.pictures(64)
    found = wrap(models.model(kind))
    for file in (found.file, Quantizer(pixels, 127)(found)):
        small = slimmed(file)
        assert len(small) < len(file)
        assert np.array_equal(predict_file(small, pixels), predict_file(file, pixels))
        assert not file_problems("it", small)
        assert json.loads(onnx_file.read_metadata(small)["labels"]) == list(models.CLASSES)
        assert slimmed(small) == small


def doubling_file(**metadata: str) -> bytes:
    """Two classes from a 1x2 picture: softmax of its pixels' values."""
    write = OnnxWriter()
    flat = write.node("Flatten", "pixels")
    one = write.constant(np.float32(1))
    real = write.node("DequantizeLinear", flat, one, write.constant(np.uint8(100)))
    write.node("Softmax", real, output="probabilities", axis=1)
    return write.file((1, 2, 1), 2, metadata)


def test_a_written_file_runs_for_any_number_of_pictures_and_batch():
    pixels = np.array([[100, 100], [101, 100], [100, 103]], np.uint8).reshape(3, 1, 2, 1)
    expected = np.array([[0.5, 0.5], [np.e, 1], [1, np.e**3]])
    expected /= expected.sum(1, keepdims=True)
    opened = open_session(doubling_file())
    for batch in (1, 2, 64):
        np.testing.assert_allclose(
            predict_probabilities(opened, pixels, batch), expected, rtol=1e-5
        )


def test_equal_constants_are_stored_once_and_others_apart():
    write = OnnxWriter()
    zero = write.constant(np.uint8(0))
    assert write.constant(np.array(0, np.uint8)) == zero
    others = [np.uint8(1), np.int8(0), np.zeros(1, np.uint8), np.float32(0)]
    assert len({zero, *(write.constant(array) for array in others)}) == 5


def test_constants_are_read_back_as_they_were_given():
    write = OnnxWriter()
    arrays = [
        np.arange(-6, 6, dtype=np.int8).reshape(2, 2, 3).transpose(2, 0, 1),
        np.array([1.5, -2.25], np.float32),
        np.array([2**30, -7], np.int32),
        np.uint8(255),
    ]
    names = [write.constant(array) for array in arrays]
    graph = onnx.ModelProto.FromString(write.file((1, 1, 1), 2, {})).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for name, array in zip(names, arrays, strict=True):
        np.testing.assert_array_equal(stored[name], array)


def test_names_stay_unique_when_one_letter_is_not_enough():
    write = OnnxWriter()
    names = [write.constant(np.full(2, n, np.int32)) for n in range(300)]
    assert len(set(names)) == 300
    assert max(map(len, names)) == 2


def test_the_same_graph_gives_the_same_bytes():
    assert doubling_file(a="b") == doubling_file(a="b")
    assert doubling_file(a="b") != doubling_file(a="c")


def test_metadata_is_read_back():
    file = doubling_file(labels=json.dumps(["Äpfel", "b"]), dataset="abc")
    assert read_metadata(file)["dataset"] == "abc"
    assert json.loads(read_metadata(file)["labels"]) == ["Äpfel", "b"]
    assert onnx.ModelProto.FromString(file).producer_version == __version__


def test_sessions_use_one_thread_and_every_optimisation():
    options = open_session(doubling_file()).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_folder_that_cannot_be_written_to_is_not_a_fault_of_the_file(monkeypatch, tmp_path):
    missing = contextlib.nullcontext(tmp_path / "none")
    monkeypatch.setattr(onnx_file, "scratch_folder", lambda: missing)
    with pytest.raises(MachineError, match=r"cannot write its optimized graph to .*none"):
        open_optimized(doubling_file())


@pytest.mark.parametrize("error", [runtime.EngineError, runtime.RuntimeException, RuntimeError])
def test_whatever_onnx_runtime_raises_a_disk_that_fails_is_not_a_fault_of_the_file(
    monkeypatch, error
):
    real = onnx_file.open_session

    def failing(file, *, optimized_to="", **more):
        if optimized_to:
            raise error("SystemError : 5")
        return real(file, **more)

    monkeypatch.setattr(onnx_file, "open_session", failing)
    with pytest.raises(MachineError, match="cannot write its optimized graph") as failed:
        open_optimized(doubling_file())
    assert "TMPDIR" in failed.value.fix


def test_a_file_that_does_not_run_is_a_fault_of_the_file():
    with pytest.raises(UNLOADABLE):
        open_optimized(b"no graph")
