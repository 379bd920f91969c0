"""Mutants of ONNX models: any field of any message, and graphs that are wired in another way."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from tests.faults.mutants.content import INTEGERS, TEXTS, Content, mutated_bytes
from tests.faults.mutants.trees import mutated_tree, odd_value

_OPERATORS = (
    *("Conv", "Relu", "Add", "Mul", "Gemm", "MatMul", "Softmax", "GlobalAveragePool", "Reshape"),
    *("Transpose", "Concat", "Split", "Gather", "Slice", "Pad", "Resize", "ArgMax", "Cast", "Clip"),
    *(
        "QuantizeLinear",
        "DequantizeLinear",
        "Constant",
        "ConstantOfShape",
        "Expand",
        "Tile",
        "Loop",
    ),
    *("If", "Scan", "NonMaxSuppression", "Range", "OneHot", "EyeLike", "RandomNormal", "Identity"),
    *("BatchNormalization", "MaxPool", "AveragePool", "Flatten", "Dropout", "LayerNormalization"),
    *("SequenceAt", "StringNormalizer", "NoSuch", "ConvTranspose", "Upsample", "DepthToSpace"),
)
_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "local", "x" * 300)


def mutated_model(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A model with one to four changes; of its bytes in one case of five."""
    if rng.random() < 0.2:
        return mutated_bytes(rng, inputs)
    try:
        model = ModelProto.FromString(rng.choice(inputs))
    except DecodeError:
        return mutated_bytes(rng, inputs)
    for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
        change = rng.choice(_CHANGES)
        try:
            change(rng, model)
        except (ValueError, TypeError, IndexError, OverflowError, UnicodeError, DecodeError):
            _any_field(rng, model)
    return bytes(model.SerializeToString())


def _any_field(rng: random.Random, model: ModelProto) -> None:
    """Change a field of a message somewhere in the model."""
    message: Message = model
    for _ in range(rng.randint(0, 8)):
        inner = [
            value
            for field, value in message.ListFields()
            if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        ]
        parts = [p for value in inner for p in (value if hasattr(value, "append") else [value])]
        if not parts:
            break
        message = rng.choice(parts)
    fields = message.DESCRIPTOR.fields
    field = rng.choice([f for f, _ in message.ListFields()] * 3 + list(fields))
    _change_field(rng, message, field)


def _change_field(rng: random.Random, message: Message, field: FieldDescriptor) -> None:
    name = field.name
    value = getattr(message, name)
    if hasattr(value, "append") or hasattr(value, "add"):
        _change_list(rng, message, field, value)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE or rng.random() < 0.2:
        message.ClearField(name)
    else:
        _set(rng, message, field)


def _change_list(rng: random.Random, message: Message, field: FieldDescriptor, value: Any) -> None:
    place = rng.randrange(len(value)) if len(value) else 0
    match rng.randrange(5):
        case 0 if len(value):
            del value[place]
        case 1 if len(value):
            value.extend([value[place]] * rng.choice((1, 1, 3, 200)))
        case 2 if len(value):
            kept = list(value)
            rng.shuffle(kept)
            message.ClearField(field.name)
            getattr(message, field.name).extend(kept)
        case 3:
            message.ClearField(field.name)
        case _:
            if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                value.add()
            elif len(value):
                value[place] = _scalar(rng, field)
            else:
                value.append(_scalar(rng, field))


def _set(rng: random.Random, message: Message, field: FieldDescriptor) -> None:
    setattr(message, field.name, _scalar(rng, field, getattr(message, field.name)))


def _scalar(rng: random.Random, field: FieldDescriptor, old: Any = None) -> Any:
    kinds = FieldDescriptor
    match field.cpp_type:
        case kinds.CPPTYPE_INT32 | kinds.CPPTYPE_INT64:
            size = 31 if field.cpp_type == kinds.CPPTYPE_INT32 else 63
            near = [] if old is None else [old + 1, old - 1, -old, 2 * old]
            value = rng.choice([*near, *INTEGERS])
            return max(-(1 << size), min((1 << size) - 1, value))
        case kinds.CPPTYPE_UINT32 | kinds.CPPTYPE_UINT64:
            return rng.choice((0, 1, 1 << 31, (1 << 32) - 1))
        case kinds.CPPTYPE_FLOAT | kinds.CPPTYPE_DOUBLE:
            return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-40))
        case kinds.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        case kinds.CPPTYPE_BOOL:
            return rng.random() < 0.5
    if field.type == kinds.TYPE_BYTES:
        old = old or b""
        return rng.choice(
            (b"", b"\0", old[:-1], old * 2, old + b"\0", mutated_bytes(rng, [old or b"a"]))
        )
    if isinstance(old, bytes):  # Protobuf gives text that is no UTF-8 as bytes.
        old = old.decode("utf-8", "replace")
    text = rng.choice((*TEXTS, *((old and (old + "x", old[:1], old.upper())) or ())))
    return text.encode("utf-8", "replace").decode()


def _operator(rng: random.Random, model: ModelProto) -> None:
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice(_OPERATORS)
    if rng.random() < 0.2:
        node.domain = rng.choice(_DOMAINS)


def _wiring(rng: random.Random, model: ModelProto) -> None:
    names = [n for node in model.graph.node for n in (*node.input, *node.output)]
    node = rng.choice(model.graph.node)
    ends = rng.choice((node.input, node.output))
    ends[rng.randrange(len(ends))] = rng.choice((*names, "", "no such"))


def _nodes(rng: random.Random, model: ModelProto) -> None:
    nodes = list(model.graph.node)
    place = rng.randrange(len(nodes))
    match rng.randrange(4):
        case 0:
            del nodes[place]
        case 1:
            nodes.insert(rng.randrange(len(nodes)), nodes[place])
        case 2:
            rng.shuffle(nodes)
        case 3:
            end = nodes[-1].output[0]
            nodes[-1].output[0] = "before"
            nodes.append(helper.make_node(rng.choice(_OPERATORS), ["before"], [end]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _tensor(rng: random.Random, model: ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(5):
        case 0:
            dims = list(tensor.dims) or [1]
            dims[rng.randrange(len(dims))] = _int64(rng)
            del tensor.dims[:]
            tensor.dims.extend(dims)
        case 1:
            tensor.data_type = rng.randrange(24)
        case 2:
            tensor.raw_data = rng.choice(
                (b"", tensor.raw_data[:-1], tensor.raw_data * 2, b"\xff" * len(tensor.raw_data))
            )
        case 3:
            tensor.data_location = TensorProto.EXTERNAL
            places = (
                "../outside/secret",
                "/etc/passwd",
                "secret",
                "/dev/zero",
                "..",
                "",
                "a/../../outside/secret",
                "model.onnx",
            )
            fields = {
                "location": rng.choice(places),
                "offset": str(rng.choice(INTEGERS)),
                "length": str(rng.choice(INTEGERS)),
            }
            del tensor.external_data[:]
            for key in rng.sample(list(fields), rng.randint(1, 3)):
                tensor.external_data.add(key=key, value=fields[key])
            if rng.random() < 0.7:
                tensor.ClearField("raw_data")
        case 4:
            tensor.name = rng.choice((*(t.name for t in model.graph.initializer), "", "pixels"))


def _ends(rng: random.Random, model: ModelProto) -> None:
    side = rng.choice((model.graph.input, model.graph.output))
    if rng.random() < 0.15:
        side.append(side[0])
        return
    kind = rng.choice(side).type.tensor_type
    if rng.random() < 0.25:
        kind.elem_type = rng.randrange(24)
        return
    dim = rng.choice(kind.shape.dim)
    if rng.random() < 0.3:
        dim.dim_param = rng.choice(("n", "", "m"))
    else:
        dim.dim_value = _int64(rng)


def _metadata(rng: random.Random, model: ModelProto) -> None:
    known = {item.key: item.value for item in model.metadata_props}
    key = rng.choice((*known, "labels", "framing", "pixel_scale", "preprocessing", "mean", "std"))
    try:
        value = json.dumps(mutated_tree(rng, json.loads(known.get(key, "[]"))))
    except ValueError:
        value = rng.choice((*TEXTS, json.dumps(odd_value(rng)), "12bit", "0:1", "1:0", "nan:inf"))
    known[key] = value.encode("utf-8", "replace").decode()
    helper.set_model_props(model, known)


def _subgraph(rng: random.Random, model: ModelProto) -> None:
    node = rng.choice(model.graph.node)
    inner = GraphProto(name="inner")
    for _ in range(rng.choice((1, 30, 90))):
        outer = GraphProto(name="outer")
        outer.node.append(helper.make_node("If", ["c"], ["d"]))
        outer.node[0].attribute.append(helper.make_attribute("then_branch", inner))
        inner = outer
    node.attribute.append(helper.make_attribute(rng.choice(("then_branch", "body", "x")), inner))


def _attribute(rng: random.Random, model: ModelProto) -> None:
    node = rng.choice(model.graph.node)
    if not node.attribute or rng.random() < 0.2:
        names = (
            "kernel_shape",
            "strides",
            "pads",
            "group",
            "dilations",
            "axis",
            "perm",
            "auto_pad",
            "value",
        )
        value = rng.choice((_int64(rng), [_int64(rng), _int64(rng)], 0.5, "SAME_UPPER"))
        node.attribute.append(helper.make_attribute(rng.choice(names), value))
        return
    attribute = rng.choice(node.attribute)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = _int64(rng)
    else:
        attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))


def _int64(rng: random.Random) -> int:
    return max(-(1 << 63), min((1 << 63) - 1, rng.choice(INTEGERS)))


def _versions(rng: random.Random, model: ModelProto) -> None:
    match rng.randrange(3):
        case 0:
            model.ir_version = rng.choice((0, 1, 3, 7, 99, 1 << 40))
        case 1:
            rng.choice(model.opset_import).version = rng.choice(
                (0, 1, 6, 7, 9, 11, 13, 18, 25, 26, 999, -1)
            )
        case 2:
            model.opset_import.add(domain=rng.choice(_DOMAINS), version=rng.choice((1, 17, 99)))


_CHANGES = (
    *(_any_field, _any_field, _any_field, _operator, _wiring, _nodes, _tensor, _tensor, _ends),
    *(_metadata, _metadata, _subgraph, _attribute, _attribute, _versions),
)
