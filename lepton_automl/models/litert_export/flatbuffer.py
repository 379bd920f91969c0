"""Write `.tflite` files: the tables of LiteRT's and of its metadata's flatbuffer schema.

Fields have the numbers that `tflite/schema.fbs` and `metadata_schema.fbs` give them. Tables and
vectors with the same content are stored once, and only inputs and outputs have names: in a file of
some kilobytes they take as much space as weights.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from lepton_automl.core.version import __version__

LABELS_FILE = "labels.txt"
_METADATA = "TFLITE_METADATA"
_VERSION = 3
_ALIGNMENT = 16
"""Bytes to whose multiples constants are aligned (`force_align` of `Buffer.data`)."""
_PLACEHOLDER = 127
"""Of codes that the older field does not hold."""
_TENSOR_AXIS_LABELS, _RGB, _IMAGE_PROPERTIES = 2, 1, 2
"""Of `AssociatedFileType`, `ColorSpaceType` and `ContentProperties`."""
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)

_TYPES = {
    np.dtype(name): number
    for name, number in (
        ("float32", 0),
        ("int32", 2),
        ("uint8", 3),
        ("int64", 4),
        ("int16", 7),
        ("complex64", 8),
        ("int8", 9),
        ("uint16", 16),
    )
}
"""Types of tensors -> `TensorType`."""


class Code(IntEnum):
    """Operators (`BuiltinOperator`)."""

    ADD = 0
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    DEQUANTIZE = 6
    LOGISTIC = 14
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RESHAPE = 22
    SOFTMAX = 25
    PAD = 34
    GATHER = 36
    MEAN = 40
    SUB = 41
    DIV = 42
    CAST = 53
    MINIMUM = 57
    PADV2 = 60
    LOG = 73
    QUANTIZE = 114
    BATCH_MATMUL = 126
    RFFT2D = 131
    IMAG = 133
    REAL = 134


class Activation(IntEnum):
    """Fused activations (`ActivationFunctionType`)."""

    NONE = 0
    RELU = 1
    RELU6 = 3


class Padding(IntEnum):
    """Kinds of padding."""

    SAME = 0
    VALID = 1


class Field(NamedTuple):
    """A field of a table; it is not stored where it has its default."""

    slot: int
    kind: str
    """`Bool`, `Int8`, `Uint8`, `Int32`, `Uint32`, `Float32`, `UOffsetTRelative`, or `Ints`."""
    value: Any
    default: Any = 0


_BYTES = {"Bool": 1, "Int8": 1, "Uint8": 1}


class Options(NamedTuple):
    """`builtin_options` of an operator: number in the union, and its fields."""

    number: int
    fields: tuple[Field, ...]


def convolution_options(
    padding: Padding, strides: tuple[int, int], activation: Activation, *, depthwise: bool
) -> Options:
    """`Conv2DOptions` or `DepthwiseConv2DOptions`; strides of height and width."""
    fields = [
        Field(0, "Int8", padding),
        Field(1, "Int32", strides[1]),
        Field(2, "Int32", strides[0]),
    ]
    if depthwise:
        more = [Field(3, "Int32", 1), Field(4, "Int8", activation)]
        return Options(2, (*fields, *more))
    return Options(1, (*fields, Field(3, "Int8", activation)))


def pool_options(padding: Padding, strides: tuple[int, int], window: tuple[int, int]) -> Options:
    """`Pool2DOptions`; strides and window of height and width."""
    fields = (
        Field(0, "Int8", padding),
        Field(1, "Int32", strides[1]),
        Field(2, "Int32", strides[0]),
        Field(3, "Int32", window[1]),
        Field(4, "Int32", window[0]),
    )
    return Options(5, fields)


def reshape_options(shape: Sequence[int]) -> Options:
    """`ReshapeOptions`."""
    return Options(17, (Field(0, "Ints", tuple(shape)),))


def add_options(activation: Activation) -> Options:
    """`AddOptions`."""
    return Options(11, (Field(0, "Int8", activation),))


def gather_options(axis: int) -> Options:
    """`GatherOptions`."""
    return Options(23, (Field(0, "Int32", axis),))


MUL_OPTIONS = Options(21, ())
SUB_OPTIONS = Options(28, ())
DIV_OPTIONS = Options(29, ())
SOFTMAX_OPTIONS = Options(9, (Field(0, "Float32", 1.0, 0.0),))
MEAN_OPTIONS = Options(27, (Field(0, "Bool", True, False),))
NO_OPTIONS = Options(0, ())
"""Of operators whose tables of options are empty."""


@dataclass(frozen=True)
class Quantization:
    """Quantization of a tensor: v = (q - zero_point) * scale."""

    scales: tuple[float, ...]
    """float32; one, or one an index of `axis`."""
    zero_point: int = 0
    axis: int = 0


class LiteRtWriter:
    """Collects the tensors, constants and operators of a file with one graph."""

    def __init__(self) -> None:
        # Slot 0 of the buffers is empty by rule: that of tensors that are computed.
        self._buffers: list[bytes] = [b""]
        self._tensors: list[_Tensor] = []
        self._operators: list[_Operator] = []
        self._constants: dict[Hashable, int] = {}

    def constant(self, array: np.ndarray, quantization: Quantization | None = None) -> int:
        """Number of a constant tensor; equal ones are stored once."""
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        key = (array.dtype.str, array.shape, content, quantization)
        if key not in self._constants:
            tensor = _Tensor(array.shape, array.dtype, self._buffer(content), quantization, "")
            self._constants[key] = self._append(tensor)
        return self._constants[key]

    def value(
        self,
        shape: Sequence[int],
        dtype: str,
        quantization: Quantization | None = None,
        name: str = "",
    ) -> int:
        """Number of a new tensor that is computed, or read."""
        return self._append(_Tensor(tuple(shape), np.dtype(dtype), 0, quantization, name))

    def operator(
        self,
        code: Code,
        inputs: Sequence[int],
        output: int,
        options: Options = NO_OPTIONS,
        version: int = 1,
    ) -> int:
        """Append an operator; its output's number."""
        self._operators.append(_Operator(code, version, tuple(inputs), output, options))
        return output

    def file(
        self,
        given: int,
        made: int,
        class_names: Sequence[str],
        *,
        is_rgb: bool,
    ) -> bytes:
        """The whole file, with labels as an associated file.

        Parameters
        ----------
        given, made : int
            Numbers of the input and of the output.
        class_names : sequence of str
            Labels; line breaks in them become spaces, since a label is a line.
        is_rgb : bool
            Whether the input is a picture in colour: readers take other ones for tables.
        """
        metadata = self._buffer(_model_metadata(is_rgb=is_rgb))
        return _with_labels(self._serialized(given, made, metadata), class_names)

    def _append(self, tensor: _Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _buffer(self, content: bytes) -> int:
        if content in self._buffers:
            return self._buffers.index(content)
        self._buffers.append(content)
        return len(self._buffers) - 1

    def _serialized(self, given: int, made: int, metadata: int) -> bytes:
        build = _Builder()
        codes = list(dict.fromkeys((each.code, each.version) for each in self._operators))
        # What is built first lies last in the file.
        buffers = [build.buffer(content) for content in self._buffers]
        tensors = [build.tensor(each) for each in self._tensors]
        operators = [build.operator(each, codes) for each in self._operators]
        graph = build.table(
            _offset(0, build.offsets(tensors)),
            _offset(1, build.array(np.array([given], np.int32))),
            _offset(2, build.array(np.array([made], np.int32))),
            _offset(3, build.offsets(operators)),
        )
        entry = build.table(_offset(0, build.text(_METADATA)), Field(1, "Uint32", metadata))
        # The older, 8 bit wide field of the code has it too, where it is below 127.
        versions = [
            build.table(
                Field(0, "Int8", min(code, _PLACEHOLDER)),
                Field(2, "Int32", version, 1),
                Field(3, "Int32", code),
            )
            for code, version in codes
        ]
        root = build.table(
            Field(0, "Uint32", _VERSION),
            _offset(1, build.offsets(versions)),
            _offset(2, build.offsets([graph])),
            _offset(3, build.text(f"lepton {__version__}")),
            _offset(4, build.offsets(buffers)),
            _offset(6, build.offsets([entry])),
        )
        return build.finish(root, b"TFL3")


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    buffer: int
    quantization: Quantization | None
    name: str


@dataclass(frozen=True)
class _Operator:
    code: Code
    version: int
    inputs: tuple[int, ...]
    output: int
    options: Options


class _Builder:
    """Appends tables and vectors to a flatbuffer; equal ones are stored once."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1 << 16)
        self._known: dict[Hashable, int] = {}

    def table(self, *fields: Field) -> int:
        """Offset of a table."""
        key = ("table", fields)
        if key not in self._known:
            fields = tuple(self._stored(field) for field in fields)
            self._builder.StartObject(1 + max((field.slot for field in fields), default=0))
            # Large fields first: then none needs padding.
            for field in sorted(fields, key=lambda each: _BYTES.get(each.kind, 4), reverse=True):
                add = getattr(self._builder, f"Prepend{field.kind}Slot")
                add(field.slot, field.value, field.default)
            self._known[key] = self._builder.EndObject()
        return self._known[key]

    def _stored(self, field: Field) -> Field:
        """A field whose value is stored in the table itself."""
        if field.kind != "Ints":
            return field
        return _offset(field.slot, self.array(np.array(field.value, np.int32)))

    def array(self, values: np.ndarray) -> int:
        """Offset of a vector of numbers."""
        key = (values.dtype.str, values.tobytes())
        if key not in self._known:
            self._known[key] = self._builder.CreateNumpyVector(values)
        return self._known[key]

    def offsets(self, values: Sequence[int]) -> int:
        """Offset of a vector of tables."""
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependUOffsetTRelative(value)
        return int(self._builder.EndVector())

    def text(self, text: str) -> int:
        """Offset of a string."""
        return int(self._builder.CreateSharedString(text))

    def buffer(self, content: bytes) -> int:
        """Offset of a `Buffer`, whose content is aligned."""
        if not content:
            return self.table()
        # The vector that follows is the content: nothing lies between it and the alignment.
        self._builder.Prep(_ALIGNMENT, len(content))
        return self.table(_offset(0, self._builder.CreateByteVector(content)))

    def tensor(self, tensor: _Tensor) -> int:
        """Offset of a `Tensor`."""
        fields = [
            _offset(0, self.array(np.array(tensor.shape, np.int32))),
            Field(1, "Int8", _TYPES[tensor.dtype]),
            Field(2, "Uint32", tensor.buffer),
        ]
        if tensor.name:
            fields.append(_offset(3, self.text(tensor.name)))
        if tensor.quantization is not None:
            fields.append(_offset(4, self.quantization(tensor.quantization)))
        return self.table(*fields)

    def quantization(self, about: Quantization) -> int:
        """Offset of `QuantizationParameters`."""
        zero_points = np.full(len(about.scales), about.zero_point, np.int64)
        return self.table(
            _offset(2, self.array(np.array(about.scales, np.float32))),
            _offset(3, self.array(zero_points)),
            Field(6, "Int32", about.axis),
        )

    def operator(self, operator: _Operator, codes: Sequence[tuple[Code, int]]) -> int:
        """Offset of an `Operator`."""
        index = codes.index((operator.code, operator.version))
        fields = [
            Field(0, "Uint32", index),
            _offset(1, self.array(np.array(operator.inputs, np.int32))),
            _offset(2, self.array(np.array([operator.output], np.int32))),
        ]
        number, options = operator.options
        if number:
            fields += [Field(3, "Uint8", number), _offset(4, self.table(*options))]
        return self.table(*fields)

    def finish(self, root: int, identifier: bytes) -> bytes:
        """The flatbuffer."""
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())


def _offset(slot: int, offset: int) -> Field:
    return Field(slot, "UOffsetTRelative", offset)


def _model_metadata(*, is_rgb: bool) -> bytes:
    """`ModelMetadata` that names the file with the labels of the output."""
    build = _Builder()
    labels = build.table(_offset(0, build.text(LABELS_FILE)), Field(2, "Int8", _TENSOR_AXIS_LABELS))
    graph = [_offset(3, build.offsets([build.table(_offset(6, build.offsets([labels])))]))]
    if is_rgb:
        properties = build.table(Field(0, "Int8", _RGB))
        content = build.table(Field(0, "Uint8", _IMAGE_PROPERTIES), _offset(1, properties))
        graph.append(_offset(2, build.offsets([build.table(_offset(3, content))])))
    root = build.table(_offset(3, build.offsets([build.table(*graph)])))
    return build.finish(root, b"M001")


def _with_labels(model: bytes, class_names: Sequence[str]) -> bytes:
    """A model and behind it a ZIP archive with a label a line, stored, as readers demand.

    Offsets in it count from the start of the model: not every reader allows for what comes before.
    """
    lines = "".join(" ".join(name.splitlines()) + "\n" for name in class_names)
    file = io.BytesIO()
    file.write(model)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _ZIP_DATE), lines.encode())
    return file.getvalue()
