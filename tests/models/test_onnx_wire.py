from __future__ import annotations

import os

import onnx
import pytest
from google.protobuf.message import DecodeError

from lepton_automl.errors import DataError
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.untrusted.onnx_wire import check_is_onnx
from tests.helpers.nets import random_arch, random_model


@pytest.fixture(scope="module")
def content():
    model = onnx.load_from_string(float_onnx(random_model(random_arch(0), 0), "abcde", {}))
    model.graph.ClearField("node")  # Short, for the test of all its lengths.
    model.graph.ClearField("initializer")
    return model.SerializeToString()


def is_refused(path):
    try:
        check_is_onnx(path, fix="give another")
    except DataError as error:
        return error.what.startswith(f"{path}: not an ONNX file: ")
    return False


def test_whatever_is_refused_is_refused_by_the_parser_too(tmp_path, content):
    """Oracle: protobuf's parser, for a file cut at each of its bytes."""
    path, accepted = tmp_path / "x.onnx", 0
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        try:
            has_graph = onnx.ModelProto.FromString(content[:length]).HasField("graph")
        except DecodeError:
            has_graph = False
        assert is_refused(path) == (not has_graph), length
        accepted += has_graph
    assert accepted < len(content) / 2


@pytest.mark.parametrize(
    "other", [b"", b"no model", b"PK\x03\x04" + bytes(60), b"\x80\x02}q", b"\xff" * 20, b"\x0b"]
)
def test_other_files_are_refused(tmp_path, other):
    path = tmp_path / "x.onnx"
    path.write_bytes(other)
    assert is_refused(path)


def test_a_named_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.onnx")
    with pytest.raises(DataError, match="it is a named pipe"):
        check_is_onnx(tmp_path / "x.onnx", fix="give another")
