"""Write, open and run ONNX files."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from lepton_automl.core.scratch import scratch_folder
from lepton_automl.core.version import __version__
from lepton_automl.errors import MachineError, first_line

if TYPE_CHECKING:
    from torch import Tensor

_OPSET = 17
_IR_VERSION = 8
INPUT_NAME, SIGNAL_NAME, AUDIO_NAME = "pixels", "signal", "audio"
OUTPUT_NAME = "probabilities"
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}
WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Operators with weights -> index of the input that holds them."""
UNLOADABLE = (
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NotImplemented,
    runtime.RuntimeException,
)
"""Exceptions of ONNX Runtime for files that it cannot load or run."""
SCRATCH_FIX = "free space there, make it writable, or name another folder in TMPDIR"
"""The way out where ONNX Runtime cannot write."""

ELEMENT_TYPES: Mapping[np.dtype[Any], int] = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int16): TensorProto.INT16,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.uint16): TensorProto.UINT16,
    np.dtype(np.int64): TensorProto.INT64,
}


_SESSION_TYPES = {
    f"tensor({word})": np.dtype(name)
    for word, name in (
        ("uint8", "uint8"),
        ("uint16", "uint16"),
        ("int16", "int16"),
        ("float", "float32"),
    )
}
"""Names that ONNX Runtime gives to types of inputs."""


class OnnxWriter:
    """Collects the nodes and constants of an ONNX graph; equal constants are stored once.

    In a file of some kilobytes names take as much space as weights, so tensors are named a, b,
    ..., and only nodes that compute are named.
    """

    def __init__(self) -> None:
        self._names = _short_names()
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}

    def constant(self, array: np.ndarray | np.generic) -> str:
        """Name of a constant tensor; uint8, int8, int32, int64 or float32."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = TensorProto(
                name=next(self._names),
                dims=array.shape,
                data_type=ELEMENT_TYPES[array.dtype],
                raw_data=np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes(),
            )
        return self._constants[key].name

    def node(self, kind: str, *inputs: str, name: str = "", output: str = "", **more: Any) -> str:
        """Append an operator and return the name of its output."""
        y = output or next(self._names)
        self._nodes.append(helper.make_node(kind, inputs, [y], name or None, **more))
        return y

    def file(
        self,
        shape: tuple[int, ...],
        classes: int,
        metadata: Mapping[str, str],
        input_type: str = "",
    ) -> bytes:
        """The whole file: input (n, *shape), float32 `probabilities` (n, classes).

        The input is named as `input_of` says, and has the type `input_type`, by default that of
        `input_of`.
        """
        name, kind = input_of(shape)
        kind = np.dtype(input_type) if input_type else kind
        given = helper.make_tensor_value_info(name, ELEMENT_TYPES[kind], ["n", *shape])
        made = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["n", classes])
        return self._serialized(given, made, metadata)

    def part(
        self, given: tuple[str, type[np.generic], tuple[int, ...]], made: tuple[str, type]
    ) -> bytes:
        """A file with another input (name, type, shape without n) and output (name, type)."""
        name, kind, shape = given
        return self._serialized(
            helper.make_tensor_value_info(name, ELEMENT_TYPES[np.dtype(kind)], ["n", *shape]),
            helper.make_tensor_value_info(made[0], ELEMENT_TYPES[np.dtype(made[1])], None),
            {},
        )

    def _serialized(
        self, given: ValueInfoProto, made: ValueInfoProto, metadata: Mapping[str, str]
    ) -> bytes:
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "lepton", [given], [made], constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="lepton",
            producer_version=__version__,
        )
        helper.set_model_props(model, dict(metadata))
        return bytes(model.SerializeToString(deterministic=True))


def input_of(shape: tuple[int, ...]) -> tuple[str, np.dtype[Any]]:
    """Name and usual type of a file's input, by its shape.

    uint8 pixels (H, W, C), a float32 signal (length, C), or int16 samples of audio (window,).
    """
    kinds: dict[int, tuple[str, np.dtype[Any]]] = {
        1: (AUDIO_NAME, np.dtype(np.int16)),
        2: (SIGNAL_NAME, np.dtype(np.float32)),
        3: (INPUT_NAME, np.dtype(np.uint8)),
    }
    return kinds[len(shape)]


def input_type(session: onnxruntime.InferenceSession) -> np.dtype[Any]:
    """Type of the input of an open file; raises a KeyError if it is none that lepton writes."""
    return _SESSION_TYPES[session.get_inputs()[0].type]


def read_metadata(file: bytes) -> dict[str, str]:
    """Metadata of a file by key; `labels` and `preprocessing` are JSON."""
    return {item.key: item.value for item in ModelProto.FromString(file).metadata_props}


def with_metadata(file: bytes, words: Mapping[str, str]) -> bytes:
    """A file with `words` added to its metadata; the file itself where there are none."""
    if not words:
        return file
    model = ModelProto.FromString(file)
    helper.set_model_props(model, read_metadata(file) | dict(words))
    return bytes(model.SerializeToString(deterministic=True))


def open_session(
    file: bytes,
    *,
    optimized_to: str = "",
    profile_to: str = "",
    threads: int = 1,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the CPU, no spinning.

    Parameters
    ----------
    file : bytes
        The ONNX file.
    optimized_to : str
        Path to which ONNX Runtime writes the optimised graph; empty writes none.
        `open_optimized` tells errors of this path from those of the file.
    profile_to : str
        Beginning of the path to which its profiler writes when `end_profiling` is called; empty
        profiles nothing.
    threads : int
        That share an operation, at least 1.
    level : onnxruntime.GraphOptimizationLevel
        Its optimisations, all by default.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = level
    options.log_severity_level = (
        4 if optimized_to else 3
    )  # The caller tells what cannot be written.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized_to:
        options.optimized_model_filepath = optimized_to
    if profile_to:
        options.enable_profiling = True
        options.profile_file_prefix = profile_to
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def open_optimized(
    file: bytes,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> tuple[onnxruntime.InferenceSession, ModelProto]:
    """Open a file, and read the graph that ONNX Runtime has made of it.

    Parameters
    ----------
    file : bytes
        The ONNX file.
    level : onnxruntime.GraphOptimizationLevel
        Its optimisations, all by default.

    Raises
    ------
    MachineError
        If the graph cannot be written to the folder for temporary files; errors of ONNX Runtime
        itself are of `file`.
    """
    with scratch_folder() as folder:
        path = Path(folder, "optimized.onnx")
        try:
            session = open_session(file, optimized_to=str(path), level=level)
            return session, onnx.load_model(path)
        except (
            Exception
        ) as error:  # Which one ONNX Runtime raises follows from the system's number.
            open_session(file, level=level)  # Raises again where the file is the cause.
            what = f"ONNX Runtime cannot write its optimized graph to {folder}"
            raise MachineError(f"{what}: {first_line(error)}", fix=SCRATCH_FIX) from error


def predict_probabilities(
    session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int = 64
) -> np.ndarray:
    """Class probabilities float32 (n, classes) of uint8 pixels (n, H, W, C), in batches.

    Or of float32 signals (n, length, C), or int16 audio (n, window), as the file reads them.
    """
    name = session.get_inputs()[0].name
    parts: Sequence[np.ndarray] = [
        session.run([OUTPUT_NAME], {name: np.ascontiguousarray(pixels[start : start + batch])})[0]
        for start in range(0, max(len(pixels), 1), batch)
    ]
    return np.concatenate(parts)


def _short_names() -> Iterator[str]:
    """Yield the names a, b, ..., Z, aa, ab, ... ."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            yield "".join(letters)


def slimmed(file: bytes) -> bytes:
    """Reduce the size of a file: short names, equal constants once, no documentation.

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
        INPUT_NAME: INPUT_NAME,
        OUTPUT_NAME: OUTPUT_NAME,
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
    # Operators to keep in float are chosen by name; conversions need none.
    node.name = "" if node.op_type in _CONVERSIONS else f"{node.op_type}{place}"
    inputs, outputs = ([renamed[name] for name in side] for side in (node.input, node.output))
    del node.input[:], node.output[:]
    node.input.extend(inputs)
    node.output.extend(outputs)


def onnx_probabilities(file: bytes, pixels: Tensor | np.ndarray, batch: int = 64) -> np.ndarray:
    """Class probabilities that ONNX Runtime computes from a file.

    Parameters
    ----------
    file : bytes
        An ONNX file with the input and output names of `OnnxWriter`.
    pixels : Tensor or ndarray
        uint8 (N, H, W, C), float32 signals (N, length, C), or int16 audio (N, window).
    batch : int
        Samples at once.

    Returns
    -------
    ndarray
        float32 (N, classes).
    """
    array = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    return predict_probabilities(open_session(file), array, batch)


def onnx_logits(file: bytes, samples: np.ndarray) -> np.ndarray:
    """Logits float32 (n, classes) that ONNX Runtime computes from a file that ends with a softmax.

    Parameters
    ----------
    file : bytes
        An ONNX file that lepton wrote.
    samples : ndarray
        (n, ...), as the file reads them.
    """
    model = ModelProto.FromString(file)
    softmax = model.graph.node.pop()
    model.graph.node[-1].output[0] = softmax.output[0]
    return predict_probabilities(open_session(model.SerializeToString()), samples)
