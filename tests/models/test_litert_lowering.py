from __future__ import annotations

import dataclasses
import io
import zipfile
from dataclasses import dataclass

import flatbuffers
import numpy as np
import pytest
from flatbuffers.table import Table

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.formats import Golden, Words, load
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.litert_export.lowering import int8_litert
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.models.quantization import InputQuantization, QParams
from lepton_automl.models.random_weights import random_net
from tests.helpers.litert import KINDS, litert, micro, run, schema
from tests.helpers.nets import random_arch, random_samples

LABELS = ["a", "b c", "ä ✓", "two\nlines", ""]
ALL = ("relu", "relu6", "hswish", "silu", "none")
SHAPES = ((16, 16, 3), (12, 12, 1), (15, 11, 3), (40, 2), (50, 1), (9, 9, 2))


@dataclass(frozen=True)
class Excite(Layer):
    """Channels scaled by a hard sigmoid of their means, which is no hard swish."""

    def lower(self, builder, x):
        gate = builder.gate(builder.global_pool(x, "pool"), "gate", "hard_sigmoid")
        return builder.mul(x, gate, "excited")


def net_of(*layers, shape=(12, 12, 1), seed=0):
    return random_net(chain(shape, [*layers, Head()], 5), 64, seed)


def seeded(seed):
    shape = SHAPES[seed % len(SHAPES)]
    return random_net(random_arch(seed, input=shape, activations=ALL), 64, seed)


def expected(net, samples):
    return onnx_probabilities(int8_onnx(net, LABELS, {}), samples)


def together(file, samples):
    """Probabilities of all samples in one call, of an input that was resized."""
    interpreter = litert().Interpreter(model_content=file, num_threads=1)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], samples.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], samples)
    interpreter.invoke()
    return interpreter.get_tensor(made["index"])


def check(net, samples, found):
    assert found.std(0).max() > 1e-3, "the answers say nothing: they are all the same"
    assert load("litert").beyond_promise(found, expected(net, samples), net) == ()


FRONT_ENDS = {
    "8 kHz": LogMel(8000, 2000, 2000, 256, 160, 40, 60.0, 4000.0, 1e4, 0.07),
    "means": LogMel(16000, 3000, 3000, 512, 320, 32, 20.0, 7600.0, 3e3, 0.08, is_centred=True),
    "odd": LogMel(11025, 1001, 700, 64, 37, 9, 0.0, 5000.0, 50.0, 0.11),
    "one frame": LogMel(8000, 128, 128, 128, 1, 30, 0.0, 4000.0, 9.0, 0.1),
}


def sound(name, count=20):
    """A net for sound, and noise of many loudnesses."""
    front_end = FRONT_ENDS[name]
    arch = chain(front_end.feature_shape, [Stem(8, stride=2), Head()], 5)
    net = random_net(dataclasses.replace(arch, front_end=front_end), 64)
    rng = np.random.default_rng(0)
    level = 10 ** rng.uniform(0, 4, (count, 1))
    samples = np.clip(rng.normal(0, 1, (count, front_end.window)) * level, -32768, 32767)
    return net, samples.astype(np.int16)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_nets_for_sound_compute_their_features_in_litert(name):
    net, samples = sound(name)
    samples[0] = 0
    for kind in KINDS:
        check(net, samples, run(int8_litert(net, LABELS), samples, kind))


def test_sound_takes_more_windows_at_once():
    net, samples = sound("means", 5)
    file = int8_litert(net, LABELS)
    assert np.abs(together(file, samples) - run(file, samples)).max() < 1e-6


def test_another_floor_of_the_features_is_seen_in_the_answers():
    net, samples = sound("8 kHz")
    wrong = dataclasses.replace(
        net,
        arch=dataclasses.replace(
            net.arch, front_end=dataclasses.replace(FRONT_ENDS["8 kHz"], floor=2e4)
        ),
    )
    found = run(int8_litert(wrong, LABELS), samples)
    assert load("litert").beyond_promise(found, expected(net, samples), net)


@pytest.mark.parametrize("seed", range(24))
def test_random_nets_answer_in_litert_as_in_onnx_runtime(seed):
    net = seeded(seed)
    samples = random_samples(net.arch, 24, seed)
    for kind in KINDS:
        check(net, samples, run(int8_litert(net, LABELS), samples, kind))


@pytest.mark.parametrize("seed", range(24))
def test_random_nets_answer_on_a_microcontroller_as_in_onnx_runtime(seed):
    net = seeded(seed)
    samples = random_samples(net.arch, 24, seed)
    check(net, samples, micro(int8_litert(net, LABELS), samples)[0])


SPECIAL = {
    "hard sigmoid": net_of(Stem(8), Excite(), Conv(8)),
    "padding of a maximum that is no zero": net_of(
        Stem(8, activation="none"), MaxPool(kernel=3, stride=2), Conv(8)
    ),
    "padding of a maximum that is zero": net_of(Stem(8), MaxPool(kernel=3, stride=2)),
    "even window, odd size": net_of(Stem(8), MaxPool(kernel=2, stride=2), shape=(11, 9, 3)),
    "stride 4": net_of(Stem(8, stride=4, kernel=5), Conv(8), shape=(32, 32, 3)),
    "stride 4, window 3": net_of(Stem(8, stride=4), Conv(8), shape=(30, 33, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", SPECIAL.values(), ids=SPECIAL)
def test_windows_and_gates_that_litert_has_no_operator_for(net, kind):
    samples = random_samples(net.arch, 24, 1)
    check(net, samples, run(int8_litert(net, LABELS), samples, kind))


def with_input(net, dtype, zero_point):
    channels = net.arch.channels
    steps = np.linspace(0.7, 1.3, channels, dtype=np.float32)
    quantization = InputQuantization(tuple((90 + steps).tolist()), tuple(steps.tolist()), dtype)
    about = dataclasses.replace(
        net.preprocessing, input_quantization=quantization, zero_point=zero_point
    )
    zero_points = net.qparams.zero_points | {"input": zero_point}
    qparams = dataclasses.replace(net.qparams, zero_points=zero_points)
    return dataclasses.replace(net, preprocessing=about, qparams=qparams)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("shape", [(9, 9, 2), (40, 2), (50, 1)], ids=str)
def test_measured_values_of_every_type_are_read(shape, dtype):
    net = with_input(random_net(random_arch(3, input=shape), 64), dtype, zero_point=120)
    values = np.random.default_rng(0).integers(0, 256, (24, *shape)).astype(dtype)
    file = int8_litert(net, LABELS)
    for kind in KINDS:
        check(net, values, run(file, values, kind))
    if dtype != "uint16":  # Which LiteRT for Microcontrollers does not know.
        check(net, values, micro(file, values)[0])


def faults(net):
    op = list(net.arch.graph.weighted_ops)[1].name
    q, about = net.qparams, net.preprocessing
    scales = q.weight_scales | {op: q.weight_scales[op] * np.float32(1.05)}
    turned = q.weights | {op: np.ascontiguousarray(q.weights[op].swapaxes(2, 3))}
    return {
        "scale": {"qparams": QParams(**vars(q) | {"weight_scales": scales})},
        "transposed weight": {"qparams": QParams(**vars(q) | {"weights": turned})},
        "mean": {"preprocessing": dataclasses.replace(about, zero_point=about.zero_point - 10)},
    }


@pytest.mark.parametrize("fault", ["scale", "transposed weight", "mean"])
def test_a_fault_of_the_writer_would_be_seen(fault):
    net = net_of(Stem(8), Conv(16), Conv(16), shape=(12, 12, 1), seed=3)
    samples = random_samples(net.arch, 24, 1)
    wrong = dataclasses.replace(net, **faults(net)[fault])
    with pytest.raises(AssertionError):
        check(net, samples, run(int8_litert(wrong, LABELS), samples))


def test_the_same_net_gives_the_same_bytes():
    for seed in range(6):
        assert int8_litert(seeded(seed), LABELS) == int8_litert(seeded(seed), LABELS)
    assert int8_litert(seeded(0), LABELS) != int8_litert(seeded(6), LABELS)


def test_litert_reads_the_tensors_that_were_quantized():
    net = net_of(Stem(8), Conv(16, stride=2), shape=(12, 12, 3))
    reader = schema()
    model = reader.ModelT.InitFromPackedBuf(int8_litert(net, LABELS), 0)
    (graph,) = model.subgraphs
    codes = [model.operatorCodes[op.opcodeIndex] for op in graph.operators]
    convolutions = [
        op
        for op, code in zip(graph.operators, codes, strict=True)
        if code.builtinCode == reader.BuiltinOperator.CONV_2D
    ]
    weighted = list(net.arch.graph.weighted_ops)
    assert len(convolutions) == len(weighted) == 3
    for op, written in zip(weighted, convolutions, strict=True):
        _, weight, bias = (graph.tensors[n] for n in written.inputs)
        stored = model.buffers[weight.buffer].data.view(np.int8).reshape(weight.shape)
        wanted = net.qparams.weights[op.name]
        wanted = wanted.reshape(*wanted.shape, *[1] * (4 - wanted.ndim))
        assert np.array_equal(stored, wanted.transpose(0, 2, 3, 1))
        scales = net.qparams.weight_scales[op.name]
        assert np.array_equal(weight.quantization.scale, scales)
        assert not weight.quantization.zeroPoint.any()
        assert weight.quantization.quantizedDimension == 0
        x = np.float32(net.qparams.scales[op.x.name])
        assert np.array_equal(bias.quantization.scale, x * scales)
    given, made = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    assert (given.name, made.name) == (b"pixels", b"probabilities")
    assert list(given.shape) == [1, 12, 12, 3]
    assert list(made.shape) == [1, 5]
    assert given.type == reader.TensorType.UINT8
    assert made.type == reader.TensorType.FLOAT32


@pytest.mark.parametrize("seed", range(6))
def test_a_net_of_one_scale_a_layer_is_written_so_and_in_int8_alone(seed):
    net = seeded(seed)
    scales = {name: np.full_like(s, s.mean()) for name, s in net.qparams.weight_scales.items()}
    net = dataclasses.replace(net, qparams=QParams(**vars(net.qparams) | {"weight_scales": scales}))
    samples = random_samples(net.arch, 24, 1)
    golden = Golden(samples[:16], expected(net, samples[:16]))
    (file,) = load("litert").files(net, Words(tuple(LABELS)), golden).values()
    reader = schema()
    tensors = reader.ModelT.InitFromPackedBuf(file, 0).subgraphs[0].tensors
    about = [t.quantization for t in tensors if t.quantization is not None]
    assert {len(q.scale) for q in about if q.scale is not None} == {1}
    assert reader.TensorType.INT16 not in {t.type for t in tensors}
    for kind in KINDS:
        check(net, samples, run(file, samples, kind))
    check(net, samples, micro(file, samples)[0])


@pytest.mark.parametrize("seed", range(6))
def test_no_logit_can_saturate(seed):
    net = seeded(seed)
    op = list(net.arch.graph.weighted_ops)[-1]
    model = schema().ModelT.InitFromPackedBuf(int8_litert(net, LABELS), 0)
    (scale,) = next(
        t.quantization.scale
        for t in model.subgraphs[0].tensors
        if t.type == schema().TensorType.INT16 and t.shape[-1] == 5 and len(t.shape) == 2
    )
    # Each logit is largest where every feature is at the end that its weight has the sign of.
    q = net.qparams
    weight = q.weights[op.name].astype(float) * q.weight_scales[op.name][:, None]
    ends = (np.array([0.0, 255.0]) - q.zero_points[op.x.name]) * q.scales[op.x.name]
    bias = q.biases[op.name] * q.weight_scales[op.name] * q.scales[op.x.name]
    highest = (np.where(weight > 0, ends[1], ends[0]) * weight).sum(1) + bias
    lowest = (np.where(weight > 0, ends[0], ends[1]) * weight).sum(1) + bias
    assert 32767 * scale == pytest.approx(max(highest.max(), -lowest.min()), rel=1e-4)


@pytest.mark.parametrize("seed", [0, 3])
def test_an_input_that_is_resized_takes_more_samples_at_once(seed):
    net = seeded(seed)
    samples = random_samples(net.arch, 5, seed)
    file = int8_litert(net, LABELS)
    assert np.abs(together(file, samples) - run(file, samples)).max() < 1e-6


def test_labels_are_a_file_in_an_archive_behind_the_model():
    with zipfile.ZipFile(io.BytesIO(int8_litert(net_of(Stem(8)), LABELS))) as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED
        text = archive.read(entry).decode()
    assert (entry.filename, text) == ("labels.txt", "a\nb c\nä ✓\ntwo lines\n\n")


def field(table, number):
    """The table that a field of a table refers to; the first one of a vector."""
    start = flatbuffers.number_types.UOffsetTFlags.py_type(table.Offset(4 + 2 * number))
    assert start, f"field {number} is missing"
    return start


def test_metadata_name_the_file_with_the_labels():
    file = int8_litert(net_of(Stem(8), shape=(12, 12, 3)), LABELS)
    start = file.index(b"M001") - 4
    content = bytearray(file[start:])
    root = Table(content, int.from_bytes(content[:4], "little"))

    def first(table, number):
        vector = table.Vector(field(table, number))
        return Table(content, table.Indirect(vector))

    graph = first(root, 3)
    labels = first(first(graph, 3), 6)
    assert labels.String(field(labels, 0) + labels.Pos) == b"labels.txt"
    assert content[field(labels, 2) + labels.Pos] == 2  # TENSOR_AXIS_LABELS
    given = first(graph, 2)
    about = Table(content, given.Indirect(field(given, 3) + given.Pos))
    assert content[field(about, 0) + about.Pos] == 2  # ImageProperties


def test_what_no_file_can_hold_is_refused():
    net = net_of(Stem(8))
    with pytest.raises(ArchError, match="not quantized"):
        int8_litert(dataclasses.replace(net, qparams=None), LABELS)
    with pytest.raises(ArchError, match="class names"):
        int8_litert(net, LABELS[:4])
