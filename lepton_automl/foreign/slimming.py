"""Slimming: short names and every constant once; in a small file these weigh as much as weights."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from lepton_automl import onnxfile

_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}


def slimmed(file: bytes) -> bytes:
    """The same function in fewer bytes.

    Parameters
    ----------
    file : bytes
        A wrapped model, quantized or not.
    """
    model = ModelProto.FromString(file)
    graph = model.graph
    names = _short_names()
    renamed = {
        "": "",
        onnxfile.INPUT_NAME: onnxfile.INPUT_NAME,
        onnxfile.OUTPUT_NAME: onnxfile.OUTPUT_NAME,
    }
    constants: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(array.shape), array.tobytes())
        if key not in constants:
            constants[key] = numpy_helper.from_array(array, next(names))
        renamed[tensor.name] = constants[key].name
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(constants.values())
    for place, node in enumerate(graph.node):
        for end in node.output:
            renamed.setdefault(end, next(names))
        _rename(node, place, renamed)
    model.doc_string = graph.doc_string = ""
    return bytes(model.SerializeToString(deterministic=True))


def _rename(node: NodeProto, place: int, renamed: dict[str, str]) -> None:
    node.doc_string = ""
    # Who stays float is told by name, and conversions compute nothing.
    node.name = "" if node.op_type in _CONVERSIONS else f"{node.op_type}{place}"
    inputs, outputs = ([renamed[name] for name in side] for side in (node.input, node.output))
    del node.input[:], node.output[:]
    node.input.extend(inputs)
    node.output.extend(outputs)


def _short_names() -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            yield "".join(letters)
